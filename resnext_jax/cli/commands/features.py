"""`resnext-jax features`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from resnext_jax.cli.commands.runs import OfImages
from resnext_jax.console import Console
from resnext_jax.data import list_files
from resnext_jax.errors import BadInput
from resnext_jax.fields import Range


@dataclass(frozen=True, kw_only=True)
class ExtractFeatures(OfImages):
    """Write the feature vectors of images, as the network makes them before it classifies."""

    out: Path
    """NPZ file to write, with `features` [N, C], `probabilities` [N, K], `keys`, `classes` and `stage`."""
    stage: str = "pool"
    """pool: what the head sees; stem, layer1, ...: the mean over the pixels of that stage's output."""
    batch_size: Annotated[int, Range(least=1)] = 32
    """Images to compute at a time."""
    skip_bad_images: bool = False
    """Leave out images that cannot be read, and name them; otherwise they are an error."""

    def check(self) -> None:
        super().check()
        if self.out.suffix.lower() != ".npz":
            raise BadInput(f"out={self.out}: expected the ending .npz")

    def __call__(self) -> None:
        files = list_files(self.images)
        predictor = self.load()
        with Console().task("computing features", len(files)) as update:
            features = predictor.features(
                files,
                stage=self.stage,
                batch_size=self.batch_size,
                skip_bad_images=self.skip_bad_images,
                update=update,
            )
        features.save(self.out)
        print(f"{self.out}: {' x '.join(map(str, features.values.shape))} of {self.stage}")
