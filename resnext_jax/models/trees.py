"""A model as plain nested dictionaries of arrays: what steps, optimisers and checkpoints handle."""

from typing import Any

from flax import nnx

Tree = dict[str, Any]


def split_model(model: nnx.Module) -> tuple[nnx.GraphDef, Tree, Tree]:
    """Structure, parameters and batch statistics of a model.

    The trees are nested by attribute, as in {"layer1": {"0": {"conv1": {"kernel": ...}}}}.

    Example:
        >>> from resnext_jax.models import build_model
        >>> graphdef, params, batch_stats = split_model(build_model("resnet18"))
        >>> params["layer1"]["0"]["conv1"]["kernel"].shape
        (3, 3, 64, 64)
    """
    graphdef, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graphdef, _plain(params), _plain(batch_stats)


def merge_model(graphdef: nnx.GraphDef, params: Tree, batch_stats: Tree) -> Any:
    """The model again; a fresh one at each call, so that it can be merged inside a traced function.

    Example:
        >>> from resnext_jax.models import build_model
        >>> merge_model(*split_model(build_model("resnet18"))).config.layers
        (2, 2, 2, 2)
    """
    return nnx.merge(graphdef, nnx.State(_keyed(params)), nnx.State(_keyed(batch_stats)), copy=True)


def _plain(state: nnx.State) -> Tree:
    def walk(tree: dict) -> Tree:
        return {str(key): walk(value) if isinstance(value, dict) else value for key, value in tree.items()}

    return walk(nnx.to_pure_dict(state))


def _keyed(tree: Tree) -> dict:
    # List positions are integers in NNX; Orbax and JSON know text keys only.
    return {
        int(key) if key.isdigit() else key: _keyed(value) if isinstance(value, dict) else value
        for key, value in tree.items()
    }
