"""The C++ kernels in `kernels/` as lowerings on CPU, called through XLA's foreign function interface."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import mlir

from resnext_jax.ops import cpp_library

SUFFIXES = {jnp.dtype("float32"): "", jnp.dtype("bfloat16"): "_bf16"}
"""How the names of kernels of a type end."""


@cache
def lanes() -> int:
    """Floats in a vector of the kernels; 0 if there are no kernels."""
    library = cpp_library.library()
    return 0 if library is None else library.functions.resnext_jax_lanes()


@cache
def multiplies_bfloat16() -> bool:
    """Whether the kernels multiply bfloat16: the processor has instructions for it (AVX512_BF16, AMX)."""
    library = cpp_library.library()
    return library is not None and library.functions.resnext_jax_bfloat16() > 0


def suffix_of(context: mlir.LoweringRuleContext, arrays: int) -> str | None:
    """How the names of the kernels for these operands end: "" for float32, "_bf16" for bfloat16.

    Args:
        context: of the lowering.
        arrays: how many of the first operands must have one type; the kernels take others as float32.

    Returns:
        None if the program may not call kernels: there are none, an operand is empty or of another type, or
        the program is exported, as it is then for any machine.
    """
    operands: Any = context.avals_in
    if context.module_context.lowering_parameters.for_export or lanes() == 0:
        return None
    dtype = operands[0].dtype
    if dtype not in SUFFIXES or not all(a.size > 0 for a in operands):
        return None
    expected = [dtype] * arrays + [np.float32] * (len(operands) - arrays)
    return SUFFIXES[dtype] if [a.dtype for a in operands] == expected else None


def lower(kernel: str, context: mlir.LoweringRuleContext, *operands: Any, **attributes: Any) -> Any:
    """Lower a primitive to the call of a kernel.

    Args:
        kernel: name of a handler in `kernels/kernels.cc`.
        context: of the lowering, in which the kernel may be called (`suffix_of`).
        operands: the kernel's, in its order.
        attributes: the kernel's, by name.
    """
    return jax.ffi.ffi_lowering(target(kernel))(context, *operands, **attributes)


@cache
def target(kernel: str) -> str:
    """Register a kernel with XLA. Its name has the version, as compiled programs outlive the process."""
    library = cpp_library.library()
    assert library is not None, "lanes() was positive"
    name = f"resnext_jax.{kernel}.{library.version}"
    handler = jax.ffi.pycapsule(getattr(library.functions, kernel))
    jax.ffi.register_ffi_target(name, handler, platform="cpu")
    return name
