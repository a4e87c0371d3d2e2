"""Three primitives that are closed under differentiation: convolution and its two gradients.

A convolution y = x * w is bilinear. Together with the cotangent g it spans one trilinear form
<g, x * w>, whose three partial gradients are

    grouped_conv(x, w)               -> y
    grouped_conv_input_grad(g, w)    -> x's shape
    grouped_conv_kernel_grad(x, g)   -> w's shape

The transpose of each in either operand is one of the other two, so derivatives of any order and mode stay
among them, and each is lowered in the way that is fastest on its platform. Arrays are [N, H, W, C], kernels
[kh, kw, C / groups, O].
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from resnext_jax.ops.conv import native
from resnext_jax.ops.conv.spec import ConvSpec
from resnext_jax.ops.primitive import define


def _primitive(
    name: str,
    in_native: Callable[..., jax.Array],
    result_shape: Callable[[ConvSpec], tuple[int, ...]],
    batch_axes: tuple[int | None, ...],
) -> Primitive:
    """A bilinear operator of two arrays and a ConvSpec, with the native lowering on all platforms.

    Args:
        name: its name in a jaxpr.
        in_native: the native form of the operator.
        result_shape: shape of the result.
        batch_axes: which operands vmap may map (0) for the mapped axis to be folded into N. If others are
            mapped, vmap maps the native form.
    """
    primitive = define(name, in_native, static="spec")

    @primitive.def_abstract_eval
    def abstract_eval(a, b, *, spec):
        return a.update(shape=result_shape(spec), weak_type=False)

    def batch(operands: Sequence[jax.Array], axes: Sequence[int | None], *, spec: ConvSpec):
        mapped = tuple(None if axis is None else 0 for axis in axes)
        operands = [
            x if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(operands, axes, strict=True)
        ]
        if mapped != batch_axes:
            return jax.vmap(partial(in_native, spec=spec), mapped)(*operands), 0
        size = next(x.shape[0] for x, axis in zip(operands, mapped, strict=True) if axis == 0)
        folded = [
            x if axis is None else x.reshape(-1, *x.shape[2:])
            for x, axis in zip(operands, mapped, strict=True)
        ]
        result = primitive.bind(*folded, spec=spec.with_batch(size * spec.input_shape[0]))
        return result.reshape(size, *result_shape(spec)), 0

    batching.primitive_batchers[primitive] = batch
    return primitive


conv_p = _primitive("grouped_conv", native.forward, lambda spec: spec.output_shape, (0, None))
input_grad_p = _primitive(
    "grouped_conv_input_grad", native.input_grad, lambda spec: spec.input_shape, (0, None)
)
kernel_grad_p = _primitive("grouped_conv_kernel_grad", native.kernel_grad, lambda spec: spec.kernel_shape, ())

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
