"""Flags of the commands that use a trained run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from resnext_jax.errors import BadInput
from resnext_jax.fields import Config, Range
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
    """Image files, folders, which are searched at any depth, and patterns such as 'scans/*.png'."""

    def check(self) -> None:
        super().check()
        if not self.images:
            raise BadInput("images: expected at least one file or folder")


@dataclass(frozen=True, kw_only=True)
class OnSplit(Config):
    """Images with labels."""

    data: str | None = None
    """Use these data instead of the run's own: of the same kinds as for `train`, of some of its classes."""
    data_dir: Path | None = None
    """Folder of prepared TFDS data sets (default: as in training)."""
    image_column: str | None = None
    """Column of a table that names the images (default, here and below: as in training, or guessed)."""
    label_column: str | None = None
    """Column of a table that has the classes."""
    split_column: str | None = None
    """Column of a table that says train, val or test."""
    group_column: str | None = None
    """Column of a table that says what belongs together, such as the patient."""
    image_dir: Path | None = None
    """Folder of a table's images (default: the table's own)."""
    split: Split | None = None
    """Images to use (default: val, or all if --data is given). `--split val` with --data is for the run's own
    images in another place: that they are the same ones is checked."""
    skip_bad_images: bool = False
    """Leave out images that cannot be read, and name them (default: as in training)."""
    batch_size: Annotated[int | None, Range(least=1)] = None
    """Images at a time (default: as in training)."""
    devices: Annotated[int | None, Range(least=1)] = None
    """Use only this many devices (default: all)."""

    @property
    def chosen_split(self) -> Split:
        """The split that was asked for, or the default."""
        return self.split or ("all" if self.data else "val")

    @property
    def other_data(self) -> dict[str, Any]:
        """Fields of `DataConfig` that differ from the run's own."""
        names = ("data", "data_dir", "image_dir")
        names += ("image_column", "label_column", "split_column", "group_column")
        changed = {name: value for name in names if (value := getattr(self, name)) is not None}
        return changed | ({"skip_bad_images": True} if self.skip_bad_images else {})

    @property
    def computing(self) -> dict[str, Any]:
        """Arguments of `Predictor.evaluate` that say how, not what."""
        return {"batch_size": self.batch_size, "devices": self.devices}


@dataclass(frozen=True, kw_only=True)
class OfSplit(OnSplit, OfRun):
    """A trained run, and images with labels."""
