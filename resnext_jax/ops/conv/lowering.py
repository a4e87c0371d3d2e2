"""Which lowering computes a convolution or a gradient of it. The table of it is in `ops/README.md`."""

import math
import os
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, Literal

import jax
import numpy as np
from jax.interpreters import mlir

from resnext_jax.errors import BadInput
from resnext_jax.ops import cpp_kernels
from resnext_jax.ops.conv import dot, im2col, merged, native, primitives, wide
from resnext_jax.ops.conv.spec import ConvSpec, Operator

Lowering = Literal["cpp", "dot", "merged", "im2col", "native"]

MODULES = {"dot": dot, "im2col": im2col, "native": native}

VARIABLE = "RESNEXT_JAX_GROUPED"
"""Environment variable: `native` or `merged` grouped convolutions on every accelerator."""
# By the estimate of its compiler a TPU gains; on GPUs it has not been measured.
ACCELERATORS = {"tpu": "merged", "cuda": "native", "rocm": "native"}


def choose(
    operator: Operator,
    spec: ConvSpec,
    lanes: int,
    *,
    multiplies_bfloat16: bool = False,
    is_followed: bool = False,
) -> Lowering:
    """The lowering that computes an operator on CPU.

    Args:
        operator: the convolution or one of its gradients.
        spec: the convolution.
        lanes: floats in a vector of the C++ kernels; 0 if the program may not call them.
        multiplies_bfloat16: whether the operands are bfloat16 and the C++ kernels multiply that.
        is_followed: whether a C++ kernel would also do what follows the convolution (`conv_affine`).

    Returns:
        "cpp" (a C++ kernel), "dot" (one matrix product), "merged" (one dense convolution for each block of
        groups), "im2col" (one matrix product over all windows) or "native" (XLA's own).
    """
    if multiplies_bfloat16:
        return "cpp"  # of every shape
    has_cpp = lanes > 0 and _is_faster_in_cpp(operator, spec, lanes)
    if spec.kernel_shape[:2] == (1, 1) and spec.groups == 1:
        # XLA does matrix products well, but it cannot divide a sum over many pixels among threads, and what
        # follows a product reads and writes memory again.
        if operator == "kernel_grad":
            return "cpp" if has_cpp and _sums_many_pixels(spec) else "dot"
        return "cpp" if has_cpp and is_followed and _is_bound_by_memory(spec, lanes) else "dot"
    if has_cpp:
        return "cpp"
    if spec.groups > 1:
        return "merged"
    if _is_smaller_than_window(operator, spec):
        return "im2col"
    return "native"


def _is_faster_in_cpp(operator: Operator, spec: ConvSpec, lanes: int) -> bool:
    """Whether the C++ kernels are faster than XLA, for a window of several pixels.

    XLA is slow for groups and for kernel gradients. Else it is faster where the result's channels do not fill
    the last vector.
    """
    width = spec.group_inputs if operator == "input_grad" else spec.group_outputs
    return spec.groups > 1 or operator == "kernel_grad" or width % lanes == 0


def _sums_many_pixels(spec: ConvSpec) -> bool:
    """Whether a 1x1 kernel's gradient adds up all pixels of x, more than it has rows or columns."""
    x, y = spec.input_shape, spec.output_shape
    return x[:3] == y[:3] and math.prod(x[:3]) > max(x[3], y[3])


def _is_bound_by_memory(spec: ConvSpec, lanes: int) -> bool:
    """Whether a 1x1 convolution waits for memory: pixels of few channels, or the weights of few pixels.

    XLA does the arithmetic of others as fast. This was measured with 16 lanes; the kernel takes no padding.
    """
    is_waiting = spec.input_shape[3] < 1024 or math.prod(spec.output_shape[:3]) < 128
    return lanes == 16 and is_waiting and spec.padding == ((0, 0), (0, 0))


def _is_smaller_than_window(operator: Operator, spec: ConvSpec) -> bool:
    """Whether the image that the windows move over is smaller than they are. Kernel gradients do not mind."""
    if operator == "kernel_grad":
        return False
    image = spec.input_shape if operator == "forward" else spec.output_shape
    return image[1] < spec.kernel_shape[0] or image[2] < spec.kernel_shape[1]


def in_jax(operator: Operator, spec: ConvSpec) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The operator in JAX's own operations, as `choose` has it without the C++ kernels."""
    name = choose(operator, spec, lanes=0)
    if name == "merged":
        dense = in_jax(operator, merged.block_of(spec))
        return partial(getattr(merged, operator), spec=spec, dense=dense)
    return partial(getattr(MODULES[name], operator), spec=spec)


def choose_on_accelerator(platform: str) -> ModuleType:
    """The lowering of all three operators on a TPU or GPU: `wide` or `native`.

    Args:
        platform: a key of `ACCELERATORS`.

    Raises:
        BadInput: the environment variable has another value.
    """
    chosen = os.environ.get(VARIABLE) or ACCELERATORS[platform]
    if chosen not in ("native", "merged"):
        raise BadInput(f"{VARIABLE}={chosen}: expected native or merged")
    return wide if chosen == "merged" else native


def _lower_on_accelerator(
    operator: Operator, platform: str, context: mlir.LoweringRuleContext, a: Any, b: Any, *, spec: ConvSpec
) -> Any:
    function = partial(getattr(choose_on_accelerator(platform), operator), spec=spec)
    return mlir.lower_fun(function, multiple_results=False)(context, a, b)


def _lower(operator: Operator, context: mlir.LoweringRuleContext, a: Any, b: Any, *, spec: ConvSpec) -> Any:
    suffix = cpp_kernels.suffix_of(context, 2)
    if choose_on_cpu(operator, spec, suffix) == "cpp":
        return cpp_kernels.lower(f"conv_{operator}{suffix}", context, a, b, **window_attributes(spec))
    is_bfloat16 = suffix == "_bf16"  # and not multiplied
    function = partial(_as_float32, operator, spec=spec) if is_bfloat16 else in_jax(operator, spec)
    return mlir.lower_fun(function, multiple_results=False)(context, a, b)


def choose_on_cpu(
    operator: Operator, spec: ConvSpec, suffix: str | None, *, is_followed: bool = False
) -> Lowering:
    """`choose` for the operands of a program, which `cpp_kernels.suffix_of` has looked at."""
    if suffix == "_bf16" and not cpp_kernels.multiplies_bfloat16():
        suffix = None
    lanes = 0 if suffix is None else cpp_kernels.lanes()
    is_bfloat16 = suffix == "_bf16"
    return choose(operator, spec, lanes, multiplies_bfloat16=is_bfloat16, is_followed=is_followed)


def window_attributes(spec: ConvSpec) -> dict[str, np.ndarray]:
    """What the C++ kernels are told of the window."""
    (top, _), (left, _) = spec.padding
    attributes = {"strides": spec.strides, "padding": (top, left), "dilation": spec.dilation}
    return {name: np.array(pair, np.int64) for name, pair in attributes.items()}


def _as_float32(operator: Operator, a: jax.Array, b: jax.Array, *, spec: ConvSpec) -> jax.Array:
    """An operator of bfloat16 on a processor that has no instructions for it."""
    result = PRIMITIVES[operator].bind(a.astype(np.float32), b.astype(np.float32), spec=spec)
    return result.astype(a.dtype)


PRIMITIVES: dict[Operator, Any] = {
    "forward": primitives.conv_p,
    "input_grad": primitives.input_grad_p,
    "kernel_grad": primitives.kernel_grad_p,
}
for operator, primitive in PRIMITIVES.items():
    mlir.register_lowering(primitive, partial(_lower, operator), platform="cpu")
    for platform in ACCELERATORS:
        rule = partial(_lower_on_accelerator, operator, platform)
        mlir.register_lowering(primitive, rule, platform=platform)
