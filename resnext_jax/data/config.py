"""Which images a run reads, and how they are divided: the fields that training and evaluation share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from resnext_jax.console import Console
from resnext_jax.data.loading import Images, load_images
from resnext_jax.data.preprocessing import Preprocessing
from resnext_jax.data.sources import Dataset, Source
from resnext_jax.data.spec import open_dataset
from resnext_jax.data.split import limit
from resnext_jax.errors import BadInput
from resnext_jax.fields import Config, Free, NotWith, Range, shown


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """Which images to use, and how they are divided and read."""

    data: str = "demo"
    """`demo`, a folder of images (class folders, or train/ val/ [test/] holding class folders), or
    `tfds:NAME[/CONFIG]`."""
    data_dir: Annotated[Path | None, Free()] = None
    """Where prepared TFDS data sets lie (TFDS's own default otherwise)."""
    val_fraction: Annotated[float, Range(above=0, below=1)] = 0.2
    """Share of the images that validate, if the data come without a validation split."""
    split_seed: Annotated[int, Range(least=0)] = 0
    """Another seed draws another split."""
    group_by: str | None = None
    """Regular expression on file names: files whose first capture is equal (one patient, one photo) stay on
    one side of the split."""
    fold: Annotated[tuple[int, int] | None, NotWith("val_fraction")] = None
    """Cross-validation: `0 3` validates on the first of three equal parts of the images and trains on the
    others; instead of val_fraction."""
    train_limit: Annotated[int | None, Range(least=1)] = None
    """Train on about this many images only, all classes in proportion, for trials and reduced runs."""
    val_limit: Annotated[int | None, Range(least=1)] = None
    """Validate on about this many images only."""
    skip_bad_images: bool = False
    """Go on without unreadable images, naming each; otherwise they stop the run before its first step."""
    cache_gib: Annotated[float, Range(least=0), Free()] = 2.0
    """Memory for decoded images, in GiB; larger data sets are decoded anew in each epoch."""
    workers: Annotated[int | None, Range(least=1), Free()] = None
    """Threads that decode images (default: one a CPU core)."""

    def check(self) -> None:
        super().check()
        if self.fold and not (0 <= self.fold[0] < self.fold[1] and self.fold[1] > 1):
            raise BadInput(f"{shown(self, 'fold')}: expected a part, from 0, and how many there are, from 2")

    def open(self) -> Dataset:
        """The data set, split as it is asked to be."""
        return open_dataset(
            self.data,
            data_dir=self.data_dir,
            val_fraction=self.val_fraction,
            split_seed=self.split_seed,
            group_by=self.group_by,
            fold=self.fold,
        )

    def choose(self, dataset: Dataset, name: str) -> Source:
        """A split by name, reduced to what the run takes of it."""
        source = dataset.split(name)
        count = {"train": self.train_limit, "val": self.val_limit}.get(name)
        return source if count is None else limit(source, count, seed=self.split_seed)


def read_images(
    source: Source,
    name: str,
    preprocessing: Preprocessing,
    config: DataConfig,
    budget_gib: float,
    console: Console,
) -> Images:
    """Images of a split, decoded once if the budget allows, with progress."""
    with console.task(f"reading {name} images", len(source)) as update:
        return load_images(
            source,
            preprocessing,
            budget_bytes=int(budget_gib * 2**30),
            skip_bad=config.skip_bad_images,
            workers=config.workers,
            progress=lambda done, _: update(done, ""),
        )
