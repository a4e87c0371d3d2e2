"""The command `resnext-jax`, and what scripts share with it: parsing, training with reports, exit codes."""

from resnext_jax.cli.commands import train
from resnext_jax.cli.entry import main
from resnext_jax.cli.exit import clean_exit
from resnext_jax.cli.parse import parse_train

__all__ = ["clean_exit", "main", "parse_train", "train"]
