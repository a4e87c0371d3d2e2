"""The commands, all of one form: a frozen dataclass, whose fields are the flags; calling it does the work.

matplotlib, TFDS and torch take a while to import: a command imports what needs them when it is called.
"""

from collections.abc import Callable
from typing import Any

from resnext_jax.cli.commands.bench import Bench
from resnext_jax.cli.commands.convert import Convert
from resnext_jax.cli.commands.data import Data
from resnext_jax.cli.commands.evaluate import Evaluate
from resnext_jax.cli.commands.explain import Explain
from resnext_jax.cli.commands.export import Export
from resnext_jax.cli.commands.models import Models, Summary
from resnext_jax.cli.commands.predict import Predict
from resnext_jax.cli.commands.report import Report
from resnext_jax.cli.commands.serve import Serve, Watch
from resnext_jax.cli.commands.train import Train, train

Command = Callable[[], None]

COMMANDS: dict[str, type[Any]] = {
    "train": Train,
    "evaluate": Evaluate,
    "predict": Predict,
    "explain": Explain,
    "report": Report,
    "export": Export,
    "serve": Serve,
    "watch": Watch,
    "convert": Convert,
    "summary": Summary,
    "bench": Bench,
    "models": Models,
    "data": Data,
}

__all__ = ["COMMANDS", "Command", "Train", "train"]
