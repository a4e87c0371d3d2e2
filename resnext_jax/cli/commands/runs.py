"""Flags of the commands that use a trained run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from resnext_jax.errors import BadInput
from resnext_jax.fields import Config
from resnext_jax.inference import Predictor, load_run

Checkpoint = Literal["best", "latest"]
Split = Literal["train", "val", "test", "all"]


@dataclass(frozen=True, kw_only=True)
class OfRun(Config):
    """A trained run."""

    run: Positional[Annotated[Path, arg(metavar="RUN")]]
    """Run directory."""
    checkpoint: Checkpoint = "best"
    """best: the epoch that was best by the run's --monitor; latest: the last one saved."""

    def load(self) -> Predictor:
        """The model of the run."""
        return load_run(self.run, self.checkpoint)


@dataclass(frozen=True, kw_only=True)
class OfImages(OfRun):
    """A trained run, and images without labels."""

    images: Positional[Annotated[tuple[Path, ...], arg(metavar="IMAGES")]]
    """Image files, and folders, which are searched at any depth."""

    def check(self) -> None:
        super().check()
        if not self.images:
            raise BadInput("images: expected at least one file or folder")


@dataclass(frozen=True, kw_only=True)
class OnSplit(Config):
    """Images with labels."""

    data: str | None = None
    """Use these data instead of the run's own: the same kinds as for `train`, with the same classes."""
    data_dir: Path | None = None
    """Folder of prepared TFDS data sets (default: as in training)."""
    split: Split | None = None
    """Images to use (default: val, or all if --data is given)."""

    @property
    def chosen_split(self) -> Split:
        """The split that was asked for, or the default."""
        return self.split or ("all" if self.data else "val")

    @property
    def other_data(self) -> dict[str, Any]:
        """Fields of `DataConfig` that differ from the run's own."""
        given = {"data": self.data, "data_dir": self.data_dir}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class OfSplit(OnSplit, OfRun):
    """A trained run, and images with labels."""
