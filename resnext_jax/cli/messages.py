"""From the words of the package to the words of the command line: fields of a record are flags here."""

import re
import typing
from collections.abc import Iterator

from tyro.conf import Positional

from resnext_jax.cli.commands import COMMANDS

_POSITIONAL = typing.get_args(Positional[int])[1]


def with_flags(message: str) -> str:
    """A message in the words of the command line.

    Args:
        message: may name fields: `some_field=value`, `some_field=True`, or `some_field` alone if it has an
            underscore, which ordinary words do not have.

            May advise functions that are commands here, such as `list_models()`.

    Returns:
        The message with `--some-field=value`, `--some-field` (`--no-some-field` for `False`). Only fields
        that are flags of a command are changed.
    """
    for function, command in _COMMANDS:
        message = function.sub(command, message)
    return _FIELD.sub(lambda match: _flag(**match.groupdict()), message)


def _flag(name: str, equals: str | None, truth: str | None) -> str:
    flag = name.replace("_", "-")
    if truth:
        return f"--{flag}" if truth == "True" else f"--no-{flag}"
    return f"--{flag}=" if equals else f"--{flag}" if "_" in name else name


def _flag_names(command: type) -> Iterator[str]:
    """The fields of a command that are flags: all but the positional ones."""
    for name, hint in typing.get_type_hints(command, include_extras=True).items():
        if _POSITIONAL not in typing.get_args(hint):
            yield name


# Functions that messages advise, and the commands that call them.
_COMMANDS = (
    (re.compile(r"list_models\(\)"), "resnext-jax models"),
    (re.compile(r"prepare_tfds\('([^']*)', '([^']*)'\)"), r"resnext-jax data prepare \1 --data-dir \2"),
)
_NAMES = {name for command in COMMANDS.values() for name in _flag_names(command)}
_FIELD = re.compile(
    rf"(?<![\w/.'-])(?P<name>{'|'.join(_NAMES)})(?:(?P<equals>=)(?:(?P<truth>True|False)\b)?|(?![\w/.'(=-]))"
)
