"""`resnext-jax data prepare` and `resnext-jax data show`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from resnext_jax.cli.commands.runs import Split
from resnext_jax.data import Preprocessing, open_dataset
from resnext_jax.data.augment import AugmentConfig
from resnext_jax.errors import BadInput
from resnext_jax.fields import Config, Range, default_of, names, shown


@dataclass(frozen=True, kw_only=True)
class Prepare(Config):
    """Prepare a TFDS data set for `--data tfds:NAME --data-dir DIR`."""

    name: Positional[Annotated[str, arg(metavar="NAME")]]
    """tfds:cifar10, tfds:monkeypox/original or tfds:monkeypox/augmented."""
    data_dir: Path
    """Folder of prepared data sets, in which this one is written."""
    archive: Path | None = None
    """The archive of the data set, or the folder that it was unpacked to, if you fetched it yourself."""

    def __call__(self) -> None:
        from resnext_jax.data import prepare_tfds

        print(prepare_tfds(self.name, self.data_dir, self.archive))


@dataclass(frozen=True, kw_only=True)
class Show(AugmentConfig):
    """Draw images of a data set with their classes, and what augmentation makes of them."""

    data: Positional[Annotated[str, arg(metavar="DATA")]]
    """`demo`, a folder, a table, or `tfds:NAME[/CONFIG]`."""
    out: Path
    """Picture file to write."""
    data_dir: Path | None = None
    """Folder of prepared TFDS data sets."""
    split: Split = "train"
    """Split to draw from."""
    image_size: Annotated[int, Range(least=1)] = 128
    """Side of each image in pixels."""
    count: Annotated[int, Range(least=1)] = 24
    """How many images to draw."""
    seed: Annotated[int, Range(least=0)] = 0
    """Seed of the choice of images and of the augmentation."""
    augment: bool = False
    """Draw beside each image what training with the same flags makes of it."""

    def __call__(self) -> None:
        from resnext_jax.reports import grid

        grid.check_format(self.out)
        given = [name for name in names(AugmentConfig) if getattr(self, name) != default_of(self, name)]
        if given and not self.augment:
            raise BadInput(f"{', '.join(shown(self, name) for name in given)}: goes with augment=True")
        source = open_dataset(self.data, data_dir=self.data_dir).split(self.split)
        preprocessing = Preprocessing(self.image_size)
        if self.augment:
            grid.draw_augmented(source, preprocessing, self, self.count, self.seed, self.out)
        else:
            grid.draw_samples(source, preprocessing, self.count, self.seed, self.out)
