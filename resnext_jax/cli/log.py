"""What the package logs, on standard error."""

import logging
import warnings

from resnext_jax.cli.messages import with_flags
from resnext_jax.console import printable

# These log their inner workings; what concerns the user is raised or printed.
QUIET = ("absl", "jax", "orbax", "matplotlib", "asyncio")


class Shown(logging.StreamHandler):
    """Shows the log.

    Attributes:
        in_place: whether it told of a checkpoint that was read in the place of a damaged one.
    """

    in_place = False

    def emit(self, record: logging.LogRecord) -> None:
        self.in_place |= getattr(record, "in_place", False)
        super().emit(record)


def log_to_stderr() -> Shown:
    """Show the package's log as plain lines, and nothing of the packages under it: what is an error to us is
    raised."""
    log = logging.getLogger("resnext_jax")
    handler = Shown()
    handler.setFormatter(_Printable("%(message)s"))
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd images, which are read or named all the same
    return handler


class _Printable(logging.Formatter):
    """Speaks of flags, and shows control characters, which file names may hold, as escapes."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(with_flags(super().formatMessage(record)))
