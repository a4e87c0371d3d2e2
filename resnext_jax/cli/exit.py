"""How a process of ours ends: its exit code, and what it prints when something is wrong."""

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import jax
from jax.errors import JaxRuntimeError

from resnext_jax import ops, training
from resnext_jax.cli.log import log_to_stderr
from resnext_jax.cli.messages import with_flags
from resnext_jax.console import printable
from resnext_jax.errors import BadInput

BAD_INPUT = 2
IN_PLACE = 3


@contextmanager
def clean_exit() -> Iterator[None]:
    """Run a command or a script as a process that ends well.

    The package's log goes to standard error, and freed memory is kept (unless RESNEXT_JAX_KEEP_FREED_MEMORY
    is 0). What the user can mend is printed as one line; RESNEXT_JAX_TRACEBACK=1 adds where it comes from.
    Any other exception is a bug: it passes through, so that Python prints its trace and exits with 1.

    Raises:
        SystemExit: 2 for bad input, a file that can't be read or written, a loss that stopped being finite,
            or too little memory; 3 if all was done, but with another checkpoint in the place of a damaged
            one; 128 + the signal if one ended the work.
    """
    log = log_to_stderr()
    if os.environ.get("RESNEXT_JAX_KEEP_FREED_MEMORY") != "0":
        ops.keep_freed_memory()
    try:
        yield
    except training.Interrupted as stop:
        if jax.process_index() > 0:  # the first process says it for all
            raise SystemExit(128 + stop.signum) from None
        resume = shlex.join(["resnext-jax", "train", "--resume", "--out", str(stop.directory)])
        _fail(f"interrupted: {stop}; go on with: {resume}", 128 + stop.signum)
    except KeyboardInterrupt:
        _end_at_once("interrupted", 128 + signal.SIGINT)
    except BrokenPipeError:
        # Whoever read our output has left, as `head` does: Python must not complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + 13) from None  # 13: SIGPIPE, which Windows does not have
    except (BadInput, OSError, FloatingPointError) as error:
        _fail(f"error: {error}", BAD_INPUT)
    except (JaxRuntimeError, MemoryError) as error:
        if isinstance(error, JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        _fail("error: there is too little memory for this; use a smaller batch or image size", BAD_INPUT)
    if log.in_place:
        raise SystemExit(IN_PLACE)


def _end_at_once(message: str, code: int) -> None:
    """Print one line and end the process, without waiting for what compiles or writes in other threads."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _fail(message, code)
    except SystemExit:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _fail(message: str, code: int) -> None:
    """Print one line and end the process."""
    if os.environ.get("RESNEXT_JAX_TRACEBACK"):
        raise
    print(printable(" ".join(with_flags(message).split())), file=sys.stderr)
    raise SystemExit(code)
