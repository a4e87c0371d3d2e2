"""What a network makes of images before it classifies them: vectors to search, cluster or train on."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from resnext_jax.data import Preprocessing
from resnext_jax.errors import BadInput
from resnext_jax.models import ResNet, merge_model, split_model
from resnext_jax.storage import write_whole


@dataclass(frozen=True)
class Features:
    """Vectors of some images.

    Args:
        keys: the images' names.
        values: float32 [N, C].
        probabilities: of the classes, float32 [N, K].
        classes: the K class names.
        stage: where in the network they are from.
    """

    keys: list[str]
    values: np.ndarray
    probabilities: np.ndarray
    classes: tuple[str, ...]
    stage: str

    def save(self, file: Path) -> None:
        """Write `features`, `probabilities`, `keys`, `classes` and `stage` as an NPZ file.

        Example:
            `with numpy.load(file) as data: data["features"], data["keys"]`
        """
        content = io.BytesIO()
        np.savez(
            content,
            features=self.values,
            probabilities=self.probabilities,
            keys=np.array(self.keys, str),
            classes=np.array(self.classes, str),
            stage=np.array(self.stage),
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, content.getvalue())


def make_features(
    model: ResNet, preprocessing: Preprocessing, stage: str
) -> Callable[[np.ndarray], tuple[jax.Array, jax.Array]]:
    """A compiled function of images, uint8 [N, S, S, 3], to features [N, C] and probabilities [N, K].

    Args:
        model: in evaluation form.
        preprocessing: how the images are normalised.
        stage: "pool", or "stem", "layer1", ...: the mean over its pixels.

    Raises:
        BadInput: no such stage.
    """
    known = ("stem", *model.stages, "pool")
    if stage not in known:
        raise BadInput(f"stage={stage!r}: expected one of {', '.join(known)}")
    graphdef, params, batch_stats = split_model(model)

    @jax.jit
    def compute(variables: dict, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        model = merge_model(graphdef, **variables)
        found = model.features(preprocessing.normalize(images))
        values = found[stage]
        values = values if stage == "pool" else values.astype("float32").mean((1, 2))
        return values, jax.nn.softmax(model.head(found["pool"]))

    return lambda images: compute({"params": params, "batch_stats": batch_stats}, images)
