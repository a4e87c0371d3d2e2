"""Three primitives that are closed under differentiation: convolution and its two transposes.

A convolution y = x * w is bilinear. Together with the cotangent g it spans one trilinear form
<g, x * w>, whose three partial gradients are

    conv(x, w)          -> y
    input_grad(g, w)    -> x's shape
    kernel_grad(x, g)   -> w's shape

The transpose of each in either argument is one of the other two, so derivatives of any order and mode stay
among them, and each is lowered in the way that is fastest on its platform. Arrays are [N, H, W, C], kernels
[kh, kw, C / groups, O].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

DIMENSION_NUMBERS = ("NHWC", "HWIO", "NHWC")


@dataclass(frozen=True)
class ConvSpec:
    """What the three operators of one convolution have in common.

    Args:
        input_shape: [N, H, W, C].
        kernel_shape: [kh, kw, C / groups, O].
        output_shape: [N, H', W', O].
        strides, padding, dilation: of the window, as in `jax.lax.conv_general_dilated`.
        groups: feature groups.
        precision: as in `jax.lax`.
    """

    input_shape: tuple[int, ...]
    kernel_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]
    groups: int
    precision: jax.lax.PrecisionLike

    def with_batch(self, batch: int) -> "ConvSpec":
        """The same convolution of another number of images."""
        return replace(
            self,
            input_shape=(batch, *self.input_shape[1:]),
            output_shape=(batch, *self.output_shape[1:]),
        )


def conv(x: jax.Array, w: jax.Array, *, spec: ConvSpec) -> jax.Array:
    """XLA's own convolution."""
    return jax.lax.conv_general_dilated(
        x,
        w,
        spec.strides,
        spec.padding,
        rhs_dilation=spec.dilation,
        dimension_numbers=DIMENSION_NUMBERS,
        feature_group_count=spec.groups,
        precision=spec.precision,
    )


def input_grad(g: jax.Array, w: jax.Array, *, spec: ConvSpec) -> jax.Array:
    """XLA's own transpose in the input."""
    x = jax.typeof(g).update(shape=spec.input_shape)
    return jax.linear_transpose(lambda x: conv(x, w, spec=spec), x)(g)[0]


def kernel_grad(x: jax.Array, g: jax.Array, *, spec: ConvSpec) -> jax.Array:
    """XLA's own transpose in the kernel."""
    w = jax.typeof(x).update(shape=spec.kernel_shape)
    return jax.linear_transpose(lambda w: conv(x, w, spec=spec), w)(g)[0]


def _primitive(
    name: str,
    native: Callable[..., jax.Array],
    result_shape: Callable[[ConvSpec], tuple[int, ...]],
    batch_axes: tuple[int | None, int | None],
) -> Primitive:
    """A bilinear operator of two arrays and a ConvSpec, lowered natively until told otherwise.

    Args:
        name: as it shows in a jaxpr.
        native: the same operator written with `jax.lax`.
        result_shape: shape of the result.
        batch_axes: the mapped operands (0) for which vmap can be folded into N.
    """
    primitive = Primitive(name)

    @primitive.def_abstract_eval
    def abstract_eval(a, b, *, spec):
        return a.update(shape=result_shape(spec), weak_type=False)

    # Outside of jit, each call is compiled by itself and cached by its spec.
    primitive.def_impl(jax.jit(lambda a, b, *, spec: primitive.bind(a, b, spec=spec), static_argnames="spec"))

    def batch(operands: Sequence[jax.Array], axes: Sequence[int | None], *, spec: ConvSpec):
        mapped = tuple(None if axis is None else 0 for axis in axes)
        operands = [
            x if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(operands, axes, strict=True)
        ]
        if mapped != batch_axes:
            return jax.vmap(partial(native, spec=spec), mapped)(*operands), 0
        size = next(x.shape[0] for x, axis in zip(operands, mapped, strict=True) if axis == 0)
        folded = [
            x if axis is None else x.reshape(-1, *x.shape[2:])
            for x, axis in zip(operands, mapped, strict=True)
        ]
        result = primitive.bind(*folded, spec=spec.with_batch(size * spec.input_shape[0]))
        return result.reshape(size, *result_shape(spec)), 0

    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(native, multiple_results=False))
    return primitive


conv_p = _primitive("grouped_conv", conv, lambda spec: spec.output_shape, (0, None))
input_grad_p = _primitive("grouped_conv_input_grad", input_grad, lambda spec: spec.input_shape, (0, None))
kernel_grad_p = _primitive("grouped_conv_kernel_grad", kernel_grad, lambda spec: spec.kernel_shape, ())

# Transposes, with the cotangent first: each in its first operand, then in its second.
ad.defbilinear(
    conv_p,
    lambda g, x, w, *, spec: input_grad_p.bind(g, w, spec=spec),
    lambda g, x, w, *, spec: kernel_grad_p.bind(x, g, spec=spec),
)
ad.defbilinear(
    input_grad_p,
    lambda x, g, w, *, spec: conv_p.bind(x, w, spec=spec),
    lambda x, g, w, *, spec: kernel_grad_p.bind(x, g, spec=spec),
)
ad.defbilinear(
    kernel_grad_p,
    lambda w, x, g, *, spec: input_grad_p.bind(g, w, spec=spec),
    lambda w, x, g, *, spec: conv_p.bind(x, w, spec=spec),
)
