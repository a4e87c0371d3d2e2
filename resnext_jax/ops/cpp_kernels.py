"""The C++ kernels in `kernels/` as lowerings on CPU, called through XLA's foreign function interface."""

from functools import cache
from typing import Any

import jax
import numpy as np
from jax.interpreters import mlir

from resnext_jax.ops import cpp_library


@cache
def lanes() -> int:
    """Floats in a vector of the kernels; 0 if there are no kernels."""
    library = cpp_library.library()
    return 0 if library is None else library.functions.resnext_jax_lanes()


def lanes_in(context: mlir.LoweringRuleContext) -> int:
    """Floats in a vector of the kernels; 0 if the program may not call them with its operands.

    An exported program calls none, as it is for any machine. Operands are float32, and none is empty.
    """
    if context.module_context.lowering_parameters.for_export:
        return 0
    arrays: Any = context.avals_in
    return lanes() if all(a.dtype == np.float32 and a.size > 0 for a in arrays) else 0


def lower(kernel: str, context: mlir.LoweringRuleContext, *operands: Any, **attributes: Any) -> Any:
    """Lower a primitive to the call of a kernel.

    Args:
        kernel: name of a handler in `kernels/kernels.cc`.
        context: of the lowering; `lanes_in` must be positive.
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
