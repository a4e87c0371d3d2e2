"""The command `resnext-jax`."""

import sys
from collections.abc import Sequence

from resnext_jax.cli.exit import clean_exit
from resnext_jax.cli.parse import parse


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        arguments: the words after `resnext-jax`; by default those of this process.

    Raises:
        SystemExit: with the exit code, if the command could not do its work; see `clean_exit`.
    """
    with clean_exit():
        command = parse(sys.argv[1:] if arguments is None else arguments)
        command.check()
        command()
