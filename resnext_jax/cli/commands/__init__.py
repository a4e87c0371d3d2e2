"""The commands, all of one form: a configuration, whose fields are the flags; calling it does the work.

matplotlib, TFDS and torch take a while to import: a command imports what needs them when it is called.
"""

from typing import Any, Protocol

from resnext_jax.cli.commands.bench import Bench
from resnext_jax.cli.commands.check import Check
from resnext_jax.cli.commands.compare import Compare
from resnext_jax.cli.commands.convert import Convert
from resnext_jax.cli.commands.data import Prepare, Show
from resnext_jax.cli.commands.evaluate import Evaluate
from resnext_jax.cli.commands.explain import Explain
from resnext_jax.cli.commands.export import Export
from resnext_jax.cli.commands.features import ExtractFeatures
from resnext_jax.cli.commands.launch import Launch
from resnext_jax.cli.commands.models import Models, Summary
from resnext_jax.cli.commands.predict import Predict
from resnext_jax.cli.commands.report import Report
from resnext_jax.cli.commands.serve import Serve, Watch
from resnext_jax.cli.commands.train import Train, train


class Command(Protocol):
    """What every command is."""

    def check(self) -> None:
        """Raise BadInput if a flag is out of range or contradicts another; see `fields.Config`."""

    def __call__(self) -> None:
        """Do the work."""


COMMANDS: dict[str, type[Any]] = {
    "train": Train,
    "launch": Launch,
    "evaluate": Evaluate,
    "predict": Predict,
    "explain": Explain,
    "report": Report,
    "compare": Compare,
    "features": ExtractFeatures,
    "export": Export,
    "serve": Serve,
    "watch": Watch,
    "convert": Convert,
    "summary": Summary,
    "bench": Bench,
    "models": Models,
    "data prepare": Prepare,
    "data show": Show,
    "data check": Check,
}

__all__ = ["COMMANDS", "Command", "Train", "train"]
