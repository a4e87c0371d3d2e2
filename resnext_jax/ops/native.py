"""The kernels in C++ that stand beside XLA's own on CPU: built once by the machine's compiler, called by XLA.

They are built for the very processor at hand when a program first wants one, and found in the cache from then
on. Where there is no compiler, or RESNEXT_JAX_KERNELS=0 is set, the operators do without.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jaxlib
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import mlir

from resnext_jax.storage import cache_directory

SOURCES = Path(__file__).with_name("kernels")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-std=c++17", "-shared", "-fPIC", "-w")

logger = logging.getLogger(__name__)


@cache
def lanes() -> int:
    """Floats in a vector of the kernels; 0 where there are no kernels."""
    library = _library()
    return 0 if library is None else library[0].resnext_jax_lanes()


def register(
    primitive: Primitive,
    kernel: str,
    otherwise: Callable[..., Any],
    attributes: Callable[..., dict[str, Any] | None] = dict,
) -> None:
    """Lower a primitive on CPU to a call of a kernel; not in programs to be exported, for any machine.

    Args:
        primitive: of arrays, which the kernel takes where all are float32 and none is empty.
        kernel: name of an FFI handler in `kernels/`.
        otherwise: lowering rule of all other cases.
        attributes: the kernel's attributes by the primitive's parameters; None where it is not to be called.
    """

    def lower(context: mlir.LoweringRuleContext, *operands: Any, **params: Any) -> Any:
        is_known = all(a.dtype == np.float32 and a.size > 0 for a in context.avals_in)
        if is_known and not context.module_context.lowering_parameters.for_export and lanes() > 0:
            values = attributes(**params)
            if values is not None:
                return jax.ffi.ffi_lowering(_target(kernel))(context, *operands, **values)
        return otherwise(context, *operands, **params)

    mlir.register_lowering(primitive, lower, platform="cpu")


@cache
def _target(kernel: str) -> str:
    """Register a kernel under a name that tells its version: compiled programs outlive the process."""
    library, version = _library()
    name = f"resnext_jax.{kernel}.{version}"
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, kernel)), platform="cpu")
    return name


@cache
def _library() -> tuple[ctypes.CDLL, str] | None:
    """The kernels and their version; None where they cannot be built."""
    if os.environ.get("RESNEXT_JAX_KERNELS") == "0":
        return None
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    if shutil.which(compiler[0]) is None:
        logger.warning(
            "no C++ compiler (%s): convolutions on CPU go without kernels, and slower", compiler[0]
        )
        return None
    version = _version(compiler)
    file = cache_directory("kernels") / f"{version}.so"
    try:
        if not file.exists():
            _build(compiler, file)
        return ctypes.CDLL(str(file)), version
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[0]
        logger.warning("the C++ kernels could not be built (%s): convolutions on CPU are slower", reason)
        return None


def _version(compiler: list[str]) -> str:
    """Hash of all that a build depends on."""
    parts = [file.read_bytes() for file in sorted(SOURCES.iterdir()) if file.is_file()]
    about = subprocess.run([*compiler, "--version"], capture_output=True, check=False).stdout
    parts += [about, repr((compiler, FLAGS, jaxlib.__version__, platform.machine(), _processor())).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def _processor() -> str:
    """What the processor can do; a home directory may be shared by several kinds of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _build(compiler: list[str], file: Path) -> None:
    """Compile to a temporary name, then rename: other processes may be doing the same."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as directory:
        output = Path(directory) / file.name
        includes = (f"-I{jax.ffi.include_dir()}", f"-I{SOURCES}")
        command = [*compiler, *FLAGS, *includes, str(SOURCES / "kernels.cc"), "-o", str(output)]
        subprocess.run(command, capture_output=True, text=True, check=True)
        output.replace(file)
