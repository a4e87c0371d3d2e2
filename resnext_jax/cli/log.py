"""What the package logs, on standard error."""

import logging

from resnext_jax.console import printable

# These log their inner workings; what concerns the user is raised or printed.
QUIET = ("absl", "jax", "orbax", "matplotlib", "asyncio")


def log_to_stderr() -> None:
    """Show the package's log as plain lines, and nothing of the packages under it: what is an error to us is
    raised."""
    log = logging.getLogger("resnext_jax")
    handler = logging.StreamHandler()
    handler.setFormatter(_Printable("%(message)s"))
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL)


class _Printable(logging.Formatter):
    """Shows control characters, which file names may hold, as escapes."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))
