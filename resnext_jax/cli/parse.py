"""From the words on the command line to a command, or to a run's configuration."""

import dataclasses
import difflib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from itertools import groupby
from typing import TypeVar

import tyro
from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes

from resnext_jax.cli.commands import COMMANDS, Command, Train
from resnext_jax.cli.headings import HEADINGS
from resnext_jax.errors import BadInput
from resnext_jax.training import TrainConfig, saved_config

PROGRAM = "resnext-jax"
FLAT = (OmitSubcommandPrefixes, OmitArgPrefixes)  # `--out`, not `--run.out`

Config = TypeVar("Config", bound=TrainConfig)


def parse(arguments: Sequence[str]) -> Command:
    """The command that the arguments ask for, ready to be called.

    If the arguments resume a run, the run's own settings are the defaults of the flags.

    Raises:
        BadInput: no such command or flag, or a value of another type.
        SystemExit: help was asked for, and printed.
    """
    name, rest = (arguments[0], arguments[1:]) if arguments else ("", ())
    if name not in COMMANDS and name and not name.startswith("-"):
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(COMMANDS)}"
        raise BadInput(f"unknown command {name!r}: {hint} (--help explains)")
    with _errors_in_one_line():
        if name not in COMMANDS:
            return tyro.extras.subcommand_cli_from_dict(
                COMMANDS, prog=PROGRAM, args=arguments, config=FLAT, registry=HEADINGS
            )
        prog = f"{PROGRAM} {name}"
        command = tyro.cli(COMMANDS[name], prog=prog, args=rest, config=FLAT, registry=HEADINGS)
    if isinstance(command, Train) and command.resume:
        return _parse_over(_saved(command), rest, prog)
    return command


def parse_train(arguments: Sequence[str], default: Config, *, prog: str, description: str) -> Config:
    """The configuration of a run, from its flags.

    If the flags resume a run, the run's own settings are the defaults of the other flags.

    Args:
        arguments: the flags.
        default: the configuration that the flags change.
        prog: name of the command, for `--help`.
        description: the first lines of `--help`.

    Raises:
        BadInput: no such flag, or a value of another type.
        SystemExit: help was asked for, and printed.
    """
    config = _parse_over(default, arguments, prog, description)
    return _parse_over(_saved(config), arguments, prog, description) if config.resume else config


def _parse_over(
    default: Config, arguments: Sequence[str], prog: str, description: str | None = None
) -> Config:
    with _errors_in_one_line():
        return tyro.cli(
            type(default),
            prog=prog,
            description=description,
            args=arguments,
            default=default,
            config=FLAT,
            registry=HEADINGS,
        )


def _saved(config: Config) -> Config:
    """The settings of the run that `config` resumes."""
    saved = dataclasses.asdict(saved_config(config.out)) | {"resume": True, "overwrite": False}
    return dataclasses.replace(config, **saved)


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    """Turn the box that tyro prints about wrong arguments into one line, raised as BadInput."""
    box = io.StringIO()
    try:
        with redirect_stderr(box):
            yield
    except SystemExit as stop:
        if not stop.code:
            raise
        raise BadInput(f"{_one_line(box.getvalue())} (--help explains)") from None


def _one_line(box: str) -> str:
    """The message in a box that tyro prints, and the first flag that it suggests.

    Terminals without Unicode get rulers, but no frame.
    """
    lines = [line.strip(" │") for line in box.splitlines()[1:]]
    sections = [
        list(group) for ruler, group in groupby(lines, lambda line: not line.strip("─-╰╯")) if not ruler
    ]
    message = " ".join(sections[0])
    for title, *suggestions in sections[1:]:
        for flag in suggestions if title == "Perhaps you meant:" else ():
            # tyro also suggests flags of other commands, such as the very one that was given.
            name = flag.split()[0].strip(",") if flag.startswith("-") else ""
            if name and name not in message.replace(",", " ").split():
                return f"{message}; did you mean {name}?"
    return message
