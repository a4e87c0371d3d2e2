"""The table of variants, and building one by name."""

import difflib
from functools import lru_cache, partial
from typing import Any

import jax
from flax import nnx

from resnext_jax.errors import BadInput
from resnext_jax.models.blocks import ResNetConfig
from resnext_jax.models.keys import Keys
from resnext_jax.models.resnet import ResNet

VARIANTS: dict[str, ResNetConfig] = {
    "resnet18": ResNetConfig("basic", (2, 2, 2, 2)),
    "resnet34": ResNetConfig("basic", (3, 4, 6, 3)),
    "resnet50": ResNetConfig("bottleneck", (3, 4, 6, 3)),
    "resnet101": ResNetConfig("bottleneck", (3, 4, 23, 3)),
    "resnet152": ResNetConfig("bottleneck", (3, 8, 36, 3)),
    "resnext14_32x4d": ResNetConfig("bottleneck", (1, 1, 1, 1), 32, 4),  # one block a stage, for demos
    "resnext50_32x4d": ResNetConfig("bottleneck", (3, 4, 6, 3), 32, 4),
    "resnext101_32x8d": ResNetConfig("bottleneck", (3, 4, 23, 3), 32, 8),
    "resnext101_64x4d": ResNetConfig("bottleneck", (3, 4, 23, 3), 64, 4),
    "wide_resnet50_2": ResNetConfig("bottleneck", (3, 4, 6, 3), 1, 128),
    "wide_resnet101_2": ResNetConfig("bottleneck", (3, 4, 23, 3), 1, 128),
    # Weakly supervised on hashtags (Mahajan et al. 2018, arXiv 1805.00932); timm and torch hub have weights.
    "resnext101_32x16d": ResNetConfig("bottleneck", (3, 4, 23, 3), 32, 16),
    "resnext101_32x32d": ResNetConfig("bottleneck", (3, 4, 23, 3), 32, 32),
    "resnext101_32x48d": ResNetConfig("bottleneck", (3, 4, 23, 3), 32, 48),
    # The CIFAR models of the ResNeXt paper, section 5.3: three stages at 32, 16 and 8 px.
    "resnext29_8x16d": ResNetConfig("bottleneck", (3, 3, 3), 8, 16, stem="cifar"),  # a narrow one, for CPUs
    "resnext29_8x64d": ResNetConfig("bottleneck", (3, 3, 3), 8, 64, stem="cifar"),
    "resnext29_16x64d": ResNetConfig("bottleneck", (3, 3, 3), 16, 64, stem="cifar"),
    # The monkeypox experiment's model: strides as in the first ResNet paper, a bias in every convolution.
    "resnext50_32x4d_stride1x1_bias": ResNetConfig(
        "bottleneck", (3, 4, 6, 3), 32, 4, stride_1x1=True, conv_bias=True
    ),
    # The monkeypox SGD experiment's model: a block fewer in each stage, Keras' epsilon.
    "resnext38_32x4d": ResNetConfig("bottleneck", (2, 3, 5, 2), 32, 4, epsilon=1.001e-5),
    # Keras' ResNet50V2: norms before convolutions, the stride in each stage's last block.
    "resnet50_v2": ResNetConfig("preactivation", (3, 4, 6, 3), epsilon=1.001e-5),
}


def list_models() -> list[str]:
    """Names that `create_model` knows, in the table's order.

    Example:
        >>> list_models()[:3]
        ['resnet18', 'resnet34', 'resnet50']
    """
    return list(VARIANTS)


def get_config(name: str | ResNetConfig) -> ResNetConfig:
    """The variant of that name; a configuration is itself.

    Raises:
        ValueError: no such name; the message suggests the nearest ones.

    Example:
        >>> get_config("resnext50_32x4d").groups
        32
    """
    if isinstance(name, ResNetConfig):
        return name
    if name not in VARIANTS:
        near = [known for known in VARIANTS if known.startswith(name)]
        near = near or difflib.get_close_matches(name, VARIANTS, n=3, cutoff=0.4) or list(VARIANTS)
        raise BadInput(f"unknown model {name!r}: did you mean {', '.join(near)}? (`list_models()` lists all)")
    return VARIANTS[name]


def build_model(name: str | ResNetConfig, *, rngs: nnx.Rngs | None = None, **options: Any) -> ResNet:
    """Build a variant with fresh parameters, drawn in one compiled call.

    Args:
        name: a name of `list_models()`, or a configuration of one's own.
        rngs: random streams; None is `nnx.Rngs(0)`.
        options: further arguments of `ResNet` (num_classes, in_channels, dtype, ...).

    Raises:
        ValueError: unknown name, or an option out of range.

    Example:
        >>> model = build_model("resnet18", num_classes=10)
        >>> model.fc.kernel.shape
        (512, 10)
    """
    config = get_config(name)
    key = (nnx.Rngs(0) if rngs is None else rngs).params()
    frozen = tuple(sorted(options.items()))
    return nnx.merge(_graphdef(config, frozen), _initial_state(key, config, frozen))


def abstract_model(name: str | ResNetConfig, **options: Any) -> ResNet:
    """The same model with `jax.ShapeDtypeStruct` for every array: no computation, no memory.

    Example:
        >>> abstract_model("resnext101_64x4d").conv1.kernel.shape
        (7, 7, 3, 64)
    """
    return _abstract(get_config(name), tuple(sorted(options.items())))


Options = tuple[tuple[str, Any], ...]


def _abstract(config: ResNetConfig, options: Options) -> ResNet:
    return nnx.eval_shape(lambda: ResNet(config, rngs=Keys(0), **dict(options)))


@lru_cache
def _graphdef(config: ResNetConfig, options: Options) -> nnx.GraphDef:
    return nnx.graphdef(_abstract(config, options))


# One compiled call, as layer by layer the many small compilations take seconds longer; and unoptimised, as
# it runs once: optimising it takes 8 s for resnext14_32x4d on 2 CPU cores, against 2 s.
@partial(jax.jit, static_argnums=(1, 2), compiler_options={"xla_backend_optimization_level": 0})
def _initial_state(key: jax.Array, config: ResNetConfig, options: Options) -> nnx.State:
    return nnx.state(ResNet(config, rngs=Keys(key), **dict(options)))
