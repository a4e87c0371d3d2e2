"""Which images a run reads, and how they are divided: the fields that training and evaluation share."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

from resnext_jax.console import Console
from resnext_jax.data.dataset import Dataset
from resnext_jax.data.demo import open_demo
from resnext_jax.data.folder import open_folder
from resnext_jax.data.loading import Images, check_readable, start_images
from resnext_jax.data.preprocessing import Preprocessing
from resnext_jax.data.sources import Source
from resnext_jax.data.split import Split
from resnext_jax.data.table import Columns, open_table
from resnext_jax.data.walk import TABLE_SUFFIXES, at_home
from resnext_jax.errors import BadInput
from resnext_jax.fields import Config, Free, NotWith, Range, shown

_OF_TABLES = ("image_column", "label_column", "split_column", "group_column", "image_dir")


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """Which images to use, and how they are divided and read.

    Example:
        >>> len(DataConfig(data="demo", val_limit=60).open().split("val"))
        60
    """

    data: Annotated[str, Free()] = "demo"
    """`demo`; a folder of images (class folders, or train/ val/ [test/] holding class folders); a table of
    images and labels (.csv, .tsv, .parquet); or `tfds:NAME[/CONFIG]`."""
    data_dir: Annotated[Path | None, Free()] = None
    """Where prepared TFDS data sets lie (TFDS's own default otherwise)."""
    image_column: str | None = None
    """Column of a table that names the images: paths or ids, with or without their suffix (default: guessed
    from its name, and logged; so are the next three)."""
    label_column: str | None = None
    """Column of a table that has the classes."""
    split_column: str | None = None
    """Column of a table that says train, val or test."""
    group_column: Annotated[str | None, NotWith("group_by")] = None
    """Column of a table that says what belongs together, such as the patient: a group stays on one side of
    the split. An empty name: there are no groups."""
    image_dir: Annotated[Path | None, Free()] = None
    """Folder of a table's images (default: the table's own; they may lie further down)."""
    val_fraction: Annotated[float, Range(above=0, below=1)] = 0.2
    """Share of the images that validate, if the data come without a validation split."""
    split_seed: Annotated[int, Range(least=0)] = 0
    """Another seed draws another split."""
    group_by: str | None = None
    """Regular expression on file names: files whose first capture is equal (one patient, one photo) stay on
    one side of the split. `auto` takes what the names suggest; `copies` keeps images together that look the
    same, which takes a look at every image."""
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

    @property
    def rule(self) -> Split:
        """How data that come undivided are divided, and how many images of a split are used."""
        return Split(
            fraction=self.val_fraction,
            seed=self.split_seed,
            group_by=self.group_by,
            fold=self.fold,
            train_limit=self.train_limit,
            val_limit=self.val_limit,
        )

    def elsewhere(self, data: str) -> Self:
        """The same settings for other data; columns go along to a table only."""
        columns = {} if _is_table(data) else dict.fromkeys(_OF_TABLES)
        return replace(self, data=data, **columns)

    def open(self) -> Dataset:
        """The data set; see `open_dataset`."""
        path, is_table = at_home(self.data), _is_table(self.data)
        for name in _OF_TABLES:
            if getattr(self, name) is not None and not is_table:
                raise BadInput(
                    f"{shown(self, name)} with {shown(self, 'data')}: it goes with a table, FILE.csv"
                )
        if not self.data:
            raise BadInput("data='': expected `demo`, a folder, a table, or tfds:NAME")
        if self.data == "demo":
            return open_demo(self.rule)
        if self.data.startswith("tfds:"):
            from resnext_jax.data.tfds import open_tfds

            return open_tfds(self.data.removeprefix("tfds:"), self.rule, self.data_dir)
        if is_table:
            columns = Columns(self.image_column, self.label_column, self.split_column, self.group_column)
            return open_table(path, self.rule, columns, self.image_dir and at_home(self.image_dir))
        return open_folder(path, self.rule)


def _is_table(data: str) -> bool:
    path = at_home(data)
    return path.suffix.lower() in TABLE_SUFFIXES and not path.is_dir()


def open_dataset(data: str, **options: Any) -> Dataset:
    """Open a data set. It is divided only when a split is asked for.

    Args:
        data: `demo`, a folder of images, a table, or `tfds:NAME[/CONFIG]`.
        options: other fields of `DataConfig`, such as `data_dir`, `val_fraction` or `group_by`.

    Raises:
        FileNotFoundError: there is no such data set.
        BadInput: it holds no usable data set.

    Example:
        >>> dataset = open_dataset("demo")
        >>> dataset.classes, len(dataset.split("val"))
        (('blisters', 'ring', 'scales'), 150)
    """
    return DataConfig(data=data, **options).open()


def read_images(
    sources: Mapping[str, Source], preprocessing: Preprocessing, config: DataConfig, console: Console
) -> dict[str, Images]:
    """Read the images of some splits, into memory if all of them fit, and show progress.

    Args:
        sources: the splits, by what they are called in the progress.
        preprocessing: geometry applied to each image.
        config: says how much memory there is, how many threads, and what is done about bad images.
        console: where the progress is shown.

    Raises:
        BadInput: images that cannot be read, of all splits.
    """
    # The splits share the memory that is allowed, by their number of images.
    share = config.cache_gib * 2**30 / max(sum(map(len, sources.values())), 1)
    loaded = {}
    for name, source in sources.items():
        with console.task(f"reading {name} images", len(source)) as update:
            loaded[name] = start_images(
                source,
                preprocessing,
                budget_bytes=int(share * len(source)),
                skip_bad=config.skip_bad_images,
                workers=config.workers,
                progress=lambda done, _, update=update: update(done, ""),
            )
    check_readable(list(loaded.values()), list(sources.values()))
    return loaded
