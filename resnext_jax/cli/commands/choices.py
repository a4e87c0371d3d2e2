"""What several commands ask for, and check."""

from typing import Literal

from resnext_jax.errors import BadInput

Checkpoint = Literal["best", "latest"]
Split = Literal["train", "val", "test", "all"]


def at_least_one(**values: int) -> None:
    """Check that numbers given by name are positive.

    Raises:
        BadInput: one is not; the message names it.
    """
    for name, value in values.items():
        if value < 1:
            raise BadInput(f"{name}={value}: expected at least 1")
