"""What the caller can mend, told apart from bugs of this package."""

from collections.abc import Iterable


class BadInput(ValueError):
    """Something that was given is wrong: a setting, a file, data, weights.

    The message is one line: what is wrong, where, what was expected, what to do. The command line prints it
    and exits with 2; any other exception is a bug, shows its trace and exits with 1.
    """


class MissingPackage(BadInput, ImportError):
    """A package of an extra is not installed; the message has the command that installs it."""


def listed(names: Iterable[str], most: int = 8) -> str:
    """Names for a message, only the first of many."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
