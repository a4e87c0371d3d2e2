"""`resnext-jax data prepare` and `resnext-jax data show`."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, subcommand

from resnext_jax.cli.commands.choices import Split, at_least_one
from resnext_jax.data import Preprocessing, open_dataset
from resnext_jax.data.augment import AugmentConfig
from resnext_jax.errors import BadInput


@dataclass(frozen=True)
class Prepare:
    """Prepare a TFDS data set, so that `--data tfds:NAME --data-dir DIR` finds it."""

    name: Positional[str]
    """tfds:cifar10, tfds:monkeypox/original or tfds:monkeypox/augmented."""
    data_dir: Path
    """Folder for prepared data sets."""
    archive: Path | None = None
    """The data set's archive or folder, where it was fetched by hand."""

    def __call__(self) -> None:
        from resnext_jax.data import prepare_tfds

        print(prepare_tfds(self.name, self.data_dir, self.archive))


@dataclass(frozen=True, kw_only=True)
class Show(AugmentConfig):
    """Draw some images of a data set with their classes, and what augmentation makes of them."""

    data: Positional[str]
    """`demo`, a folder, or `tfds:NAME[/CONFIG]`."""
    out: Path
    """Picture to write."""
    data_dir: Path | None = None
    """Where prepared TFDS data sets lie."""
    split: Split = "train"
    """Images to choose from."""
    image_size: int = 128
    """Side of each image in pixels."""
    count: int = 24
    """Images to draw."""
    seed: int = 0
    """Another seed chooses other images."""
    augment: bool = False
    """Draw beside each image what training with the same flags would see of it."""

    def __call__(self) -> None:
        from resnext_jax.reports import grid

        grid.check_format(self.out)
        at_least_one(image_size=self.image_size, count=self.count)
        self.check()
        given = [
            f"{field.name}={value}"
            for field in dataclasses.fields(AugmentConfig)
            if (value := getattr(self, field.name)) != field.default
        ]
        if given and not self.augment:
            raise BadInput(f"{', '.join(given)}: goes with augment=True")
        source = open_dataset(self.data, data_dir=self.data_dir).split(self.split)
        preprocessing = Preprocessing(self.image_size)
        if self.augment:
            grid.draw_augmented(source, preprocessing, self, self.count, self.seed, self.out)
        else:
            grid.draw_samples(source, preprocessing, self.count, self.seed, self.out)


@dataclass(frozen=True)
class Data:
    """Prepare data sets, and look at them."""

    action: Annotated[Prepare, subcommand("prepare")] | Annotated[Show, subcommand("show")]

    def __call__(self) -> None:
        self.action()
