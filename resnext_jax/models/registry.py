"""Networks by name: those of the table, and those that users register; and building them."""

import difflib
import importlib
import inspect
import os
import re
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import jax
from flax import nnx

from resnext_jax.errors import BadInput
from resnext_jax.models.keys import Keys
from resnext_jax.models.network import Network
from resnext_jax.models.resnet import ResNet
from resnext_jax.models.variants import VARIANTS, ResNetConfig

ENVIRONMENT = "RESNEXT_JAX_MODELS"
"""Names modules, between commas, that register networks; they are imported when names are first looked up."""

Factory = Callable[..., Network]
"""Makes a network of one's own: `factory(num_classes=..., in_channels=..., dtype=..., rngs=...)`."""
Architecture = ResNetConfig | Factory
"""What a name stands for."""

_factories: dict[str, Factory] = {}


def register_model(name: str, model: Architecture) -> None:
    """Give a network of one's own a name.

    `create_model`, `TrainConfig(model=name)` and every command then know it.
    Commands learn of it from the environment variable `RESNEXT_JAX_MODELS`, which names the module that
    registers it. A run of a configuration keeps it and needs no registration; a run of a factory keeps the
    name alone, so that whoever loads it registers the factory first.

    Args:
        name: letters, digits, `_` and `-`; not a name that is taken.
        model: a `ResNetConfig`; or a function that takes `num_classes`, `in_channels`, `dtype` and `rngs` by
            name, and those further options of `ResNet` that it offers, and returns a `Network`.

    Raises:
        BadInput: the name is taken by another network or is none, or the model is neither of both.

    Example:
        >>> import resnext_jax as rj
        >>> from resnext_jax.models import ResNetConfig
        >>> rj.register_model("resnext26_16x4d", ResNetConfig("bottleneck", (2, 2, 2, 2), 16, 4))
        >>> model = rj.create_model("resnext26_16x4d", num_classes=10)
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise BadInput(f"register_model: name={name!r}: expected letters, digits, _ and -")
    if not isinstance(model, ResNetConfig) and not callable(model):
        raise BadInput(f"register_model: {name!r}: expected a ResNetConfig or a function, found {model!r}")
    known = VARIANTS.get(name) or _factories.get(name)
    if known is not None and known != model:
        raise BadInput(f"register_model: {name!r} is taken by another network; choose another name")
    if isinstance(model, ResNetConfig):
        VARIANTS[name] = model
    else:
        _factories[name] = model


def list_models() -> list[str]:
    """Names that `create_model` knows: the table's in its order, then those that were registered.

    Example:
        >>> list_models()[:3]
        ['resnet18', 'resnet34', 'resnet50']
    """
    _import_registering_modules()
    return [*VARIANTS, *_factories]


def get_config(name: str | Architecture) -> Architecture:
    """What a name stands for: a configuration, or a registered factory; either is itself.

    Raises:
        BadInput: no such name; the message suggests the nearest ones.

    Example:
        >>> get_config("resnext50_32x4d").groups
        32
    """
    if not isinstance(name, str):
        return name
    if name not in VARIANTS and name not in _factories:
        known = list_models()
        near = [each for each in known if each.startswith(name)][:_NEAREST]
        near = near or difflib.get_close_matches(name, known, n=_NEAREST, cutoff=0.4)
        if name not in known:
            hint = f"did you mean {', '.join(near)}?" if near else "none is called like it;"
            raise BadInput(f"unknown model {name!r}: {hint} (`list_models()` lists all)")
    return VARIANTS.get(name) or _factories[name]


_NEAREST = 5


def factory_name(factory: Factory) -> str:
    """Where a factory is defined, as in "package.module:function", for messages and run directories."""
    return f"{factory.__module__}:{getattr(factory, '__qualname__', type(factory).__qualname__)}"


@lru_cache
def _import_registering_modules() -> None:
    for module in filter(None, os.environ.get(ENVIRONMENT, "").split(",")):
        try:
            importlib.import_module(module.strip())
        except ImportError as error:
            raise BadInput(f"{ENVIRONMENT}={os.environ[ENVIRONMENT]}: {error}") from error


def build_model(name: str | Architecture, *, rngs: nnx.Rngs | None = None, **options: Any) -> Network:
    """Build a network with fresh parameters, drawn in one compiled call.

    Args:
        name: a name of `list_models()`, a configuration of one's own, or a factory.
        rngs: random streams; None is `nnx.Rngs(0)`.
        options: further arguments of `ResNet` (num_classes, in_channels, dtype, ...).

    Raises:
        BadInput: unknown name, or an option out of range.

    Example:
        >>> model = build_model("resnet18", num_classes=10)
        >>> model.fc.kernel.shape
        (512, 10)
    """
    architecture = get_config(name)
    key = (nnx.Rngs(0) if rngs is None else rngs).params()
    frozen = tuple(sorted(options.items()))
    return nnx.merge(_graphdef(architecture, frozen), _initial_state(key, architecture, frozen))


def abstract_model(name: str | Architecture, **options: Any) -> Network:
    """The same network with `jax.ShapeDtypeStruct` for every array: no computation, no memory.

    Example:
        >>> abstract_model("resnext101_64x4d").conv1.kernel.shape
        (7, 7, 3, 64)
    """
    return _abstract(get_config(name), tuple(sorted(options.items())))


Options = tuple[tuple[str, Any], ...]


def _make(architecture: Architecture, options: Options, rngs: Keys) -> Network:
    if isinstance(architecture, ResNetConfig):
        return ResNet(architecture, rngs=rngs, **dict(options))
    given = _given(architecture, dict(options))
    network = architecture(rngs=rngs, **given)
    if not isinstance(network, Network):
        raise BadInput(
            f"{factory_name(architecture)}: expected a resnext_jax.models.Network, found a "
            f"{type(network).__name__}"
        )
    return network


def _given(factory: Factory, options: dict[str, Any]) -> dict[str, Any]:
    """The options that a factory is called with: those that every factory takes, and those that it offers."""
    parameters = _parameters(factory)
    defaults = {name: each.default for name, each in _parameters(ResNet).items()}
    options = {name: defaults[name] for name in ("num_classes", "in_channels", "dtype")} | options
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return options
    refused = {name: value for name, value in options.items() if name not in parameters}
    wanted = [f"{name}={value!r}" for name, value in refused.items() if value != defaults.get(name)]
    if wanted:
        raise BadInput(f"{factory_name(factory)}: it does not offer {', '.join(wanted)}")
    return {name: value for name, value in options.items() if name in parameters}


def _parameters(factory: Factory) -> Mapping[str, inspect.Parameter]:
    # The signature of an NNX class is that of its metaclass, which takes anything.
    return inspect.signature(factory.__init__ if isinstance(factory, type) else factory).parameters


def _abstract(architecture: Architecture, options: Options) -> Network:
    return nnx.eval_shape(lambda: _make(architecture, options, Keys(0)))


@lru_cache
def _graphdef(architecture: Architecture, options: Options) -> nnx.GraphDef:
    return nnx.graphdef(_abstract(architecture, options))


# One compiled call, as layer by layer the many small compilations take seconds longer; and unoptimised, as
# it runs once: optimising it takes 8 s for resnext14_32x4d on 2 CPU cores, against 2 s.
@partial(jax.jit, static_argnums=(1, 2), compiler_options={"xla_backend_optimization_level": 0})
def _initial_state(key: jax.Array, architecture: Architecture, options: Options) -> nnx.State:
    return nnx.state(_make(architecture, options, Keys(key)))
