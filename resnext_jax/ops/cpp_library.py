"""The shared library of the C++ kernels: built by the machine's compiler, kept in the cache, checked, loaded.

It is built for the processor at hand when a program first wants a kernel, and found in the cache later.
Without a compiler, or with RESNEXT_JAX_KERNELS=0, there is none, and the operators use other lowerings.
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
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jax
import jaxlib.version

from resnext_jax import storage

SOURCES = Path(__file__).with_name("kernels")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-std=c++17", "-shared", "-fPIC")

logger = logging.getLogger(__name__)
_loading = threading.Lock()


@dataclass(frozen=True)
class Library:
    """The loaded library, and the hash of all that its build depends on."""

    functions: ctypes.CDLL
    version: str


def library() -> Library | None:
    """The library, built if need be; None if there is none, for a reason that is logged once."""
    with _loading:
        return _library()


@cache
def _library() -> Library | None:
    if os.environ.get("RESNEXT_JAX_KERNELS") == "0":
        return None
    try:
        return _load(_compiler())
    except (OSError, AttributeError, subprocess.CalledProcessError) as error:
        logger.warning("no C++ kernels, so convolutions on CPU are slower: %s", _one_line(error))
        return None


def _compiler() -> list[str]:
    """The command of the C++ compiler, with its flags.

    Raises:
        OSError: there is none.
    """
    if os.name != "posix":
        raise OSError("they are built on Linux and macOS only")
    command = _words("CXX", os.environ.get("CXX", "c++"))
    if not command:
        raise OSError("CXX= names no compiler; unset it, or set it to one")
    if shutil.which(command[0]) is None:
        raise OSError(f"found no C++ compiler {command[0]}; install one, or set CXX to it")
    return [*command, *FLAGS, *_words("RESNEXT_JAX_CXXFLAGS", os.environ.get("RESNEXT_JAX_CXXFLAGS", ""))]


def _words(variable: str, text: str) -> list[str]:
    """The text of an environment variable, split as a shell would split it."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise OSError(f"{variable}={text}: {error}") from error


def _load(compiler: list[str]) -> Library:
    version = _version(compiler)
    try:
        directory = storage.private_cache_directory("kernels")
    except OSError as error:
        logger.warning(
            "the C++ kernels are built anew in each process, as they cannot be kept: %s; "
            "set RESNEXT_JAX_CACHE to a folder of your own",
            _one_line(error),
        )
        with tempfile.TemporaryDirectory() as directory:
            return _open(_build(compiler, Path(directory), version), version)
    return _open(_find(directory, version) or _build(compiler, directory, version), version)


def _open(file: Path, version: str) -> Library:
    functions = ctypes.CDLL(str(file))
    functions.resnext_jax_lanes  # noqa: B018  (AttributeError: not what we built)
    return Library(functions, version)


def _find(directory: Path, version: str) -> Path | None:
    """The library of a version that was built before. If it is damaged, it is removed."""
    for file in sorted(directory.glob(f"{version}.*.so")):
        with suppress(FileNotFoundError):  # another process removes the same damaged file
            if storage.is_own(file) and file.name == _name(version, file.read_bytes()):
                return file
            logger.warning("the C++ kernels in %s are damaged: they are built again", file)
            file.unlink()
    return None


def _name(version: str, content: bytes) -> str:
    """A library's file name has the hash of its content, so both are written at once."""
    return f"{version}.{hashlib.sha256(content).hexdigest()}.so"


def _build(compiler: list[str], directory: Path, version: str) -> Path:
    """Compile to a temporary name, then rename: other processes may be doing the same."""
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        output = Path(folder) / "kernels.so"
        source = ("-isystem", jax.ffi.include_dir(), str(SOURCES / "kernels.cc"))
        command = [*compiler, *source, "-o", str(output)]
        _run(command, check=True)
        output.chmod(0o700)
        return output.replace(directory / _name(version, output.read_bytes()))


def _version(compiler: list[str]) -> str:
    """Hash of all that a build depends on."""
    parts = [file.read_bytes() for file in sorted(SOURCES.iterdir()) if file.is_file()]
    about = _run([*compiler, "--version"]).stdout.encode()
    parts += [about, repr((compiler, jaxlib.version.__version__, platform.machine(), _processor())).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def _run(command: list[str], *, check: bool = False) -> subprocess.CompletedProcess[str]:
    # What is preloaded into this process, such as a sanitizer, would only slow the compiler down.
    environment = os.environ | {"LD_PRELOAD": ""}
    return subprocess.run(
        command, capture_output=True, text=True, check=check, stdin=subprocess.DEVNULL, env=environment
    )


def _processor() -> str:
    """What the processor can do; a home directory may be shared by several kinds of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _one_line(error: Exception) -> str:
    """The line of a compiler's output that tells the error, or of the exception's own text."""
    lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
    return next((line for line in lines if "error" in line), lines[0] if lines else type(error).__name__)
