"""A trained run, ready to use: classify images, evaluate splits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from resnext_jax.data import Preprocessing, Source, load_images
from resnext_jax.data.files import ImageFiles
from resnext_jax.models import ResNet, abstract_model
from resnext_jax.training.checkpoint import Checkpoints, Which
from resnext_jax.training.classification import classification_report
from resnext_jax.training.config import TrainConfig
from resnext_jax.training.console import Console, Update
from resnext_jax.training.evaluation import Evaluator
from resnext_jax.training.metrics import mean_metrics
from resnext_jax.training.parallel import DataParallel
from resnext_jax.training.run import RunInfo
from resnext_jax.training.runtime import enable_compilation_cache
from resnext_jax.training.setup import choose_split, read_dataset, read_images
from resnext_jax.training.state import merge_model, split_model
from resnext_jax.training.step import Normalize


@dataclass(frozen=True)
class Predictions:
    """Probabilities of some images.

    Args:
        keys: the images' names.
        images: uint8 [N, S, S, 3], as the network saw them.
        probabilities: float32 [N, K].
        classes: the K class names.
    """

    keys: list[str]
    images: np.ndarray
    probabilities: np.ndarray
    classes: tuple[str, ...]

    def top(self, k: int = 1) -> list[list[tuple[str, float]]]:
        """The k most probable classes of each image, with their probabilities."""
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :k]
        return [
            [(self.classes[label], float(row[label])) for label in labels]
            for row, labels in zip(self.probabilities, order, strict=True)
        ]

    def true_classes(self) -> list[str | None]:
        """The class of each image that lies in a folder called as a class; None of the others."""
        parents = (Path(key).parent.name for key in self.keys)
        return [parent if parent in self.classes else None for parent in parents]


class Predictor:
    """A trained model with all that it needs to classify images; made by `load_run`.

    Args:
        model: in evaluation form.
        info: configuration, classes and preprocessing of the run.
        step: training steps behind the checkpoint.
    """

    def __init__(self, model: ResNet, info: RunInfo, step: int):
        self.model, self.info, self.step = model, info, step
        graphdef, params, batch_stats = split_model(model)
        self._variables = (params, batch_stats)
        normalize = Normalize(self.preprocessing.mean, self.preprocessing.std)

        @jax.jit
        def probabilities(variables: tuple, images: jax.Array) -> jax.Array:
            return jax.nn.softmax(merge_model(graphdef, *variables)(normalize(images)))

        self._probabilities = probabilities

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the outputs."""
        return self.info.classes

    @property
    def preprocessing(self) -> Preprocessing:
        """Geometry and normalisation of the images."""
        return self.info.preprocessing

    @property
    def config(self) -> TrainConfig:
        """Configuration of the run."""
        return self.info.config

    def probabilities(self, images: np.ndarray, batch_size: int = 32) -> np.ndarray:
        """Class probabilities, float32 [N, K], of preprocessed images, uint8 [N, S, S, 3]."""
        chunks = []
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            padding = np.zeros((min(batch_size, len(images)) - len(batch), *batch.shape[1:]), np.uint8)
            chunks.append(
                self._probabilities(self._variables, np.concatenate([batch, padding]))[: len(batch)]
            )
        return np.concatenate([np.asarray(chunk) for chunk in chunks])

    def predict(
        self,
        paths: Sequence[str | Path],
        *,
        batch_size: int = 32,
        skip_bad_images: bool = False,
        update: Update | None = None,
    ) -> Predictions:
        """Classify image files and all images below folders.

        Args:
            paths: files and folders.
            batch_size: images at a time.
            skip_bad_images: leave unreadable images out, naming each, instead of raising.
            update: progress: images read.

        Raises:
            FileNotFoundError: a path that is not there, or a folder without images.
            ValueError: unreadable images, all named.
        """
        images = load_images(
            ImageFiles(paths, self.classes),
            self.preprocessing,
            budget_bytes=0,
            skip_bad=skip_bad_images,
            progress=None if update is None else lambda done, _: update(done, ""),
        )
        pixels = images.gather(np.arange(len(images)))
        return Predictions(images.keys, pixels, self.probabilities(pixels, batch_size), self.classes)

    def evaluate(
        self, split: str = "val", *, positive: str | None = None, quiet: bool = True, **changes: object
    ) -> dict[str, Any]:
        """Metrics on a split of the data that the run was trained on.

        Args:
            split: "train", "val" or "test", split as in training, or "all".
            positive: of two classes, the one to be detected; None: the second.
            quiet: show no progress.
            changes: fields of the configuration to replace, such as `data` or `data_dir`.

        Returns:
            `images` (their number), `loss`, `top1`, above five classes `top5`, and all that
            `classification_report` has.

        Raises:
            ValueError: no such split, or other classes than the model's.
            FileNotFoundError: the data are not there.
        """
        config = replace(self.config, **changes)
        dataset = read_dataset(config)
        if dataset.classes != self.classes:
            raise ValueError(
                f"{config.data}: its classes are {', '.join(dataset.classes)}; the model tells apart "
                f"{', '.join(self.classes)}"
            )
        source = choose_split(config, dataset, split)
        return self.evaluate_source(source, split, positive=positive, quiet=quiet, **changes)

    def evaluate_source(
        self,
        source: Source,
        name: str,
        *,
        positive: str | None = None,
        quiet: bool = True,
        **changes: object,
    ) -> dict[str, Any]:
        """Metrics on any images of the model's classes, as `evaluate` has them.

        Args:
            source: the images.
            name: what they are, for the progress that is shown.
            positive: of two classes, the one to be detected; None: the second.
            quiet: show no progress.
            changes: fields of the configuration to replace, such as `batch_size` or `devices`.
        """
        info = replace(self.info, config=replace(self.config, **changes))
        config = info.config
        images = read_images(source, name, info, config.cache_gib, Console(quiet))
        parallel = DataParallel(config.devices)
        graphdef, params, batch_stats = split_model(self.model)
        evaluate = Evaluator(graphdef, self.preprocessing, parallel)
        batch_size = -(-config.batch_size // parallel.global_count) * parallel.global_count
        model = parallel.replicate({"params": params, "batch_stats": batch_stats})
        log_probabilities = evaluate(model, images, batch_size)
        metrics = mean_metrics(log_probabilities, images.labels)
        report = classification_report(log_probabilities, images.labels, self.classes, positive)
        return {"images": len(images)} | metrics | report


def load_run(directory: str | Path, checkpoint: Which = "best") -> Predictor:
    """Rebuild a trained model from its run directory, which is all that it needs.

    Args:
        directory: the run directory.
        checkpoint: "best" (by validation top-1, ties by loss) or "latest".

    Raises:
        FileNotFoundError: no run or no checkpoint there.
    """
    enable_compilation_cache()
    with Checkpoints(Path(directory)) as checkpoints:
        step = checkpoints.step_of(checkpoint)
        info = RunInfo.from_dict(checkpoints.read_meta(step))
        variables = checkpoints.read_model(step)
    config = info.config
    model = abstract_model(config.model, num_classes=len(info.classes), dtype=jnp.dtype(config.dtype))
    model.eval()
    graphdef = nnx.graphdef(model)
    return Predictor(merge_model(graphdef, **jax.tree.map(jnp.asarray, variables)), info, step)
