"""Batch norms folded into the convolutions before them: the same network with fewer operations."""

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from resnext_jax.inference.program import Operation, Value, trace
from resnext_jax.models import ACTIVATIONS, BatchNorm, Network

Path = tuple[Any, ...]


class FoldedNorm(nnx.Module):
    """What is left of a batch norm whose arithmetic a convolution does: the activation after it, if any."""

    def __call__(self, x: jax.Array, *, act: str | None = None) -> jax.Array:
        """The input, activated by `act` if given; [N, H, W, C]."""
        return x if act is None else ACTIVATIONS[act](x)


def fold_batch_norm(model: Network, image_size: int = 64) -> Network:
    """The same network in evaluation form, with batch norms folded into convolutions.

    In evaluation a batch norm is y = (x - mean) / sqrt(var + epsilon) * scale + bias, which a convolution
    before it can do with other weights. A norm is folded if it takes the output of a
    convolution which nothing else uses; others (before the convolutions of a preactivation block, say) stay.

    Args:
        model: any network of convolutions and batch norms; it is left unchanged.
        image_size: a side of images, in pixels, that it takes; nothing is computed.

    Returns:
        A model of its own arrays. It cannot be trained as the original could: what the norms would normalise
        is gone.

    Example:
        >>> import jax.numpy as jnp, resnext_jax as rj
        >>> model = rj.create_model("resnet18", num_classes=3)
        >>> model.eval()
        >>> images = jnp.ones((1, 32, 32, 3))
        >>> bool(jnp.allclose(rj.fold_batch_norm(model)(images), model(images), atol=1e-5))
        True
    """
    folded = nnx.clone(model)
    folded.eval()
    modules: dict[Path, Any] = dict(nnx.iter_modules(folded))
    for conv_path, norm_path in _pairs(folded, image_size).items():
        _fold(modules[conv_path], modules[norm_path])
        parent, name = modules[norm_path[:-1]], norm_path[-1]
        if isinstance(name, int):
            parent[name] = FoldedNorm()
        else:
            setattr(parent, name, FoldedNorm())
    return folded


def _fold(conv: nnx.Conv, norm: BatchNorm) -> None:
    """Let a convolution do what a norm after it does; computed in float64."""
    arrays: tuple[Any, ...] = (norm.mean, norm.var, norm.scale, norm.bias)
    mean, var, scale, bias = (np.asarray(x[...], np.float64) for x in arrays)
    factor = scale / np.sqrt(var + norm.epsilon)
    before = 0.0 if conv.bias is None else np.asarray(conv.bias[...], np.float64)
    kernel = conv.kernel[...]
    conv.kernel.set_value(jnp.asarray(np.asarray(kernel, np.float64) * factor, kernel.dtype))
    conv.bias = nnx.Param(jnp.asarray((before - mean) * factor + bias, kernel.dtype))
    conv.use_bias = True


def _pairs(model: Network, image_size: int) -> dict[Path, Path]:
    """The path of each convolution whose output goes to a norm and nowhere else, with that norm's path.

    They are found in what the model computes and not by their names, so that every variant is served.
    """
    graphdef, state = nnx.split(model)
    flat, treedef = jax.tree.flatten_with_path(nnx.to_pure_dict(state))
    leaves = [leaf for _, leaf in flat]
    owner = [tuple(key.key for key in path) for path, _ in flat]

    def run(leaves: list[jax.Array], images: jax.Array) -> jax.Array:
        tree = jax.tree.unflatten(treedef, leaves)
        return nnx.merge(graphdef, nnx.State(tree), copy=True)(images)

    images = jax.ShapeDtypeStruct((1, image_size, image_size, model.in_channels), jnp.float32)
    program = trace(run, leaves, images)
    uses = Counter(value for operation in program.operations for value in operation.inputs)
    known = _Known(dict(zip(program.inputs, owner, strict=False)))
    for operation in program.operations:
        _follow(operation, uses, known)
    modules = dict(nnx.iter_modules(model))
    return {conv: norm for conv, norm in known.pairs.items() if isinstance(modules[norm], BatchNorm)}


class _Known:
    """What the values of a program are.

    Args:
        arrays: the model's arrays, by their paths.
    """

    def __init__(self, arrays: dict[Value, Path]):
        self.arrays = arrays
        # Values that depend on one module's arrays alone, with its path.
        self.made_of = {value: path[:-1] for value, path in arrays.items()}
        # Outputs of convolutions, with the bias that they may have.
        self.outputs: dict[Value, Path] = {}
        self.pairs: dict[Path, Path] = {}


def _follow(operation: Operation, uses: Counter[Value], known: _Known) -> None:
    """Note what an operation makes of a model's arrays and of its convolutions' outputs."""
    if len(operation.outputs) != 1:
        return
    arrays, outputs = known.arrays, known.outputs
    operands: tuple[Any, ...] = (*operation.inputs, None)
    first, second = operands[:2]
    [result] = operation.outputs
    is_output = first in outputs and uses[first] == 1
    match operation.name:
        case "grouped_conv" | "conv_general_dilated" if second in arrays:
            outputs[result] = arrays[second][:-1]
        case "convert_element_type" if is_output:
            outputs[result] = outputs[first]
        case "add" if is_output and second in arrays and arrays[second] == (*outputs[first], "bias"):
            outputs[result] = outputs[first]
        case "sub" | "mul" if is_output and second in known.made_of:
            # A norm begins with its mean or, in `conv_affine`, with its scale.
            known.pairs[outputs[first]] = known.made_of[second]
        case name:
            if name in ("broadcast_in_dim", "reshape", "convert_element_type") and first in arrays:
                arrays[result] = arrays[first]
            makers = {known.made_of.get(value) for value in operation.inputs if value.constant is None}
            if len(makers) == 1 and (maker := makers.pop()) is not None:
                known.made_of[result] = maker
