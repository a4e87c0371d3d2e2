"""From the words on the command line to a command, or to a run's configuration."""

import dataclasses
import difflib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from itertools import groupby, takewhile
from typing import NoReturn, TypeVar

import tyro
from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes

from resnext_jax.cli.commands import COMMANDS, Command, Train
from resnext_jax.cli.headings import HEADINGS
from resnext_jax.errors import BadInput
from resnext_jax.runs import CONFIG, saved_steps
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
    name = next((name for name in COMMANDS if name.split() == [*arguments[: len(name.split())]]), None)
    if name is None:
        _explain(arguments)
    rest, prog = arguments[len(name.split()) :], f"{PROGRAM} {name}"
    if name == "launch" and "train" in rest:  # what follows are flags of that command
        rest = [*rest[: rest.index("train")], "--", *rest[rest.index("train") :]]
    with _errors_in_one_line():
        command = tyro.cli(COMMANDS[name], prog=prog, args=rest, config=FLAT, registry=HEADINGS)
    if isinstance(command, Train) and command.resume:
        return _parse_over(_saved(command), rest, prog)
    return command


def _explain(arguments: Sequence[str]) -> NoReturn:
    """List the commands if help is asked for; those of a group for `data` and `data --help`."""
    words = [*takewhile(lambda word: not word.startswith("-"), arguments)]
    group = {name: command for name, command in COMMANDS.items() if name.split()[: len(words)] == words}
    if not group:
        is_group = any(name.split()[0] == words[0] for name in COMMANDS)
        unknown = " ".join(words[: 1 + is_group])
        near = difflib.get_close_matches(unknown, COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(COMMANDS)}"
        raise BadInput(f"unknown command {unknown!r}: {hint} (--help explains)")
    with _errors_in_one_line():
        tyro.extras.subcommand_cli_from_dict(group, prog=PROGRAM, args=arguments[len(words) :])
    raise AssertionError("tyro takes a command's place for help or for an error")


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
    if config.out is None or not (saved_steps(config.out) or (config.out / CONFIG).is_file()):
        return config  # there is nothing to go on with: the run starts with these
    # How many processes go on with a run is not the run's to say.
    ours = {"resume": True, "overwrite": False, "distributed": False}
    ours |= dict.fromkeys(("coordinator", "processes", "process_id"))
    saved = dataclasses.asdict(saved_config(config.out)) | ours
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
