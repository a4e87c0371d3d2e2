"""`resnext-jax serve` and `resnext-jax watch`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from resnext_jax.cli.commands.runs import Checkpoint
from resnext_jax.serve import Address, ServeConfig


@dataclass(frozen=True, kw_only=True)
class Serve(ServeConfig):
    """Classify images in the browser: a page on this computer, and POST /predict for programs."""

    run: Positional[Annotated[Path, arg(metavar="RUN")]]
    """Run directory."""
    checkpoint: Checkpoint = "best"
    """best: the epoch that was best by the run's --monitor; latest: the last one saved."""
    open: bool = False
    """Open the page in the browser."""

    def __call__(self) -> None:
        from resnext_jax.serve import serve

        serve(self.run, self, checkpoint=self.checkpoint, open_page=self.open)


@dataclass(frozen=True, kw_only=True)
class Watch(Address):
    """Show the curves of a run in the browser while it is under way; only its directory is read."""

    run: Positional[Annotated[Path, arg(metavar="RUN")]]
    """Run directory."""
    open: bool = False
    """Open the page in the browser."""

    def __call__(self) -> None:
        from resnext_jax.serve import watch

        watch(self.run, self, open_page=self.open)
