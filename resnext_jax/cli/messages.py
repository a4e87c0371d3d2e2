"""From the words of the package to the words of the command line: fields of a record are flags here."""

import dataclasses
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

    Returns:
        The message with `--some-field=value`, `--some-field` (`--no-some-field` for `False`). Only fields
        that are flags of a command are changed.
    """
    return _FIELD.sub(lambda match: _flag(**match.groupdict()), message)


def _flag(name: str, equals: str | None, truth: str | None) -> str:
    flag = name.replace("_", "-")
    if truth:
        return f"--{flag}" if truth == "True" else f"--no-{flag}"
    return f"--{flag}=" if equals else f"--{flag}" if "_" in name else name


def _flag_names(record: type) -> Iterator[str]:
    """The fields of a command that are flags, those of its own commands included."""
    hints = typing.get_type_hints(record, include_extras=True)
    for field in dataclasses.fields(record):
        hint = hints[field.name]
        inner = [part for kind in typing.get_args(hint) for part in (kind, *typing.get_args(kind))]
        if commands := [kind for kind in inner if isinstance(kind, type) and dataclasses.is_dataclass(kind)]:
            for command in commands:
                yield from _flag_names(command)
        elif _POSITIONAL not in typing.get_args(hint):
            yield field.name


_NAMES = {name for command in COMMANDS.values() for name in _flag_names(command)}
_FIELD = re.compile(
    rf"(?<![\w/.'-])(?P<name>{'|'.join(_NAMES)})(?:(?P<equals>=)(?:(?P<truth>True|False)\b)?|(?![\w/.'(=-]))"
)
