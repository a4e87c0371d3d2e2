"""A trained run, ready to use: classify images, evaluate splits."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from resnext_jax.console import Console, Update
from resnext_jax.data import (
    DataConfig,
    GivenImages,
    ImageLike,
    Pixels,
    Preprocessing,
    Source,
    decode,
    groups_of,
    load_images,
    read_images,
)
from resnext_jax.devices import DataParallel, enable_compilation_cache
from resnext_jax.errors import BadInput
from resnext_jax.inference.evaluation import LabelledPredictions
from resnext_jax.inference.evaluator import Evaluator
from resnext_jax.inference.explain import Explanations, Method, choose_targets, evidence
from resnext_jax.models import ResNet, Tree, merge_model, split_model
from resnext_jax.runs import Checkpoints, ModelSpec, Which


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
        spec: variant, classes and preprocessing.
        settings: configuration of the run, as plain JSON values; {} if the weights were trained elsewhere.
        step: training steps behind the checkpoint.
    """

    def __init__(self, model: ResNet, spec: ModelSpec, settings: dict[str, Any], step: int):
        self.model, self.spec, self.settings, self.step = model, spec, settings, step
        graphdef, params, batch_stats = split_model(model)
        self._graphdef, self._variables = graphdef, {"params": params, "batch_stats": batch_stats}
        self._placed: dict[int | None, tuple[DataParallel, Evaluator, Tree]] = {}

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the outputs."""
        return self.spec.classes

    @property
    def preprocessing(self) -> Preprocessing:
        """Geometry and normalisation of the images."""
        return self.spec.preprocessing

    def probabilities(
        self, images: np.ndarray, batch_size: int = 32, devices: int | None = None
    ) -> np.ndarray:
        """Class probabilities, float32 [N, K], of preprocessed images, uint8 [N, S, S, 3].

        Args:
            images: as `preprocessing` makes them.
            batch_size: images in a step, over all devices.
            devices: use only this many; None: all of this host.
        """
        return np.exp(self._log_probabilities(Pixels(images, self.classes), batch_size, devices)[0])

    def predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        batch_size: int = 32,
        skip_bad_images: bool = False,
        update: Update | None = None,
    ) -> Predictions:
        """Classify images.

        Args:
            images: one or several of these, in any mixture: files, folders (all images below them), arrays
                (uint8 [h, w, 3], upright RGB of any size) and pictures of Pillow's.
            batch_size: images at a time.
            skip_bad_images: leave unreadable images out, naming each, instead of raising.
            update: progress: images read.

        Raises:
            FileNotFoundError: a path that is not there, or a folder without images.
            BadInput: unreadable images, all named.
        """
        readable = load_images(
            GivenImages(images, self.classes),
            self.preprocessing,
            budget_bytes=0,
            skip_bad=skip_bad_images,
            progress=None if update is None else lambda done, _: update(done, ""),
        )
        pixels = readable.gather(np.arange(len(readable)))
        return Predictions(readable.keys, pixels, self.probabilities(pixels, batch_size), self.classes)

    def explain(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        method: Method = "grad-cam",
        stage: str | None = None,
        classes: Sequence[str] | None = None,
        top_k: int = 1,
        patch: int | None = None,
        batch_size: int = 32,
        update: Update | None = None,
    ) -> Explanations:
        """Find where in images the evidence for classes lies.

        Args:
            images: as in `predict`.
            method: "grad-cam", "grad-cam++" or "occlusion".
            stage: whose output's gradient is taken, "stem", "layer1", ...; None: the last.
            classes: names of classes to explain, the same for every image; None: the most probable.
            top_k: how many of the most probable.
            patch: side of the square that covers, in pixels, for occlusion; None: an eighth of the image's.
            batch_size: images in a step.
            update: progress: images done.

        Returns:
            The maps with images and probabilities, see `Explanations`.

        Raises:
            FileNotFoundError: a path that is not there, or a folder without images.
            BadInput: unreadable images; no such method, stage or class; a patch that does not fit.
        """
        given = GivenImages(images, self.classes)
        records = (given[i] for i in range(len(given)))
        originals = [decode(record["image"], record["key"]) for record in records]
        pixels = np.stack([self.preprocessing(image) for image in originals])
        probabilities = self.probabilities(pixels, batch_size)
        targets = choose_targets(probabilities, self.classes, classes, top_k)
        options = {
            "method": method,
            "stage": stage,
            "patch": patch,
            "batch_size": batch_size,
            "update": update,
        }
        maps = evidence(self.model, self.preprocessing, pixels, targets, **options)
        return Explanations(
            given.keys, originals, probabilities, self.classes, targets, maps, method, self.preprocessing
        )

    def evaluate(
        self,
        split: str = "val",
        *,
        positive: str | None = None,
        quiet: bool = True,
        batch_size: int | None = None,
        devices: int | None = None,
        **changes: object,
    ) -> dict[str, Any]:
        """Metrics on a split of the data that the run was trained on, or on other data.

        Args:
            split: "train", "val" or "test", split as in training, or "all".
            positive: of two classes, the one to be detected; None: the second.
            quiet: show no progress.
            batch_size: images in a step; None: as in training.
            devices: use only this many; None: all of this host.
            changes: fields of `DataConfig` to replace, such as `data` or `data_dir`.

        Returns:
            All that `LabelledPredictions.metrics` has.

        Raises:
            BadInput: no such split, or other classes than the model's.
            FileNotFoundError: the data are not there.
        """
        options = {"quiet": quiet, "batch_size": batch_size, "devices": devices}
        return self.predict_split(split, **options, **changes).metrics(positive)

    def evaluate_source(
        self,
        source: Source,
        name: str,
        *,
        positive: str | None = None,
        quiet: bool = True,
        batch_size: int | None = None,
        devices: int | None = None,
        **changes: object,
    ) -> dict[str, Any]:
        """Metrics on any images of the model's classes, as `evaluate` has them.

        Args:
            source: the images.
            name: what they are, for the progress that is shown.
            positive: of two classes, the one to be detected; None: the second.
            quiet: show no progress.
            batch_size: images in a step; None: as in training.
            devices: use only this many; None: all of this host.
            changes: fields of `DataConfig` to replace, such as `cache_gib` or `workers`.
        """
        return self._predict_source(
            source, name, self.data_config(**changes), None, quiet, batch_size, devices
        ).metrics(positive)

    def predict_split(
        self,
        split: str = "val",
        *,
        quiet: bool = True,
        batch_size: int | None = None,
        devices: int | None = None,
        **changes: object,
    ) -> LabelledPredictions:
        """Classify the images of a split, whose classes are known; arguments and errors as in `evaluate`."""
        config = self.data_config(**changes)
        dataset = config.open()
        if dataset.classes != self.classes:
            raise BadInput(
                f"{config.data}: its classes are {', '.join(dataset.classes)}; the model tells apart "
                f"{', '.join(self.classes)}"
            )
        source = dataset.split(split)
        # The expression for groups is about the names of the data that the run was trained on.
        is_other = "data" in changes and "group_by" not in changes
        groups = groups_of(source, None if is_other else config.group_by)
        return self._predict_source(source, split, config, groups, quiet, batch_size, devices)

    def _predict_source(
        self,
        source: Source,
        name: str,
        config: DataConfig,
        groups: Sequence[str] | None,
        quiet: bool,
        batch_size: int | None,
        devices: int | None,
    ) -> LabelledPredictions:
        images = read_images({name: source}, self.preprocessing, config, Console(quiet))[name]
        batch_size = batch_size or self.settings.get("batch_size", 32)
        log_probabilities, read = self._log_probabilities(images, batch_size, devices)
        images = images.subset(read)
        if groups is not None and len(images) < len(source):  # some could not be read
            group_of = dict(zip(source.keys, groups, strict=True))
            groups = [group_of[key] for key in images.keys]
        return LabelledPredictions(images, log_probabilities, self.classes, groups)

    def data_config(self, **changes: object) -> DataConfig:
        """The data that the run was trained on, with some fields replaced."""
        known = [f.name for f in fields(DataConfig)]
        if unknown := sorted(set(changes) - set(known)):
            raise TypeError(f"{', '.join(unknown)}: no field of DataConfig, which has {', '.join(known)}")
        return replace(DataConfig.pick(self.settings), **changes)

    def _log_probabilities(
        self, images: Any, batch_size: int, devices: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `Evaluator` has them, by all devices; the batch is rounded up to what they share evenly."""
        if devices not in self._placed:
            parallel = DataParallel(devices)
            evaluate = Evaluator(self._graphdef, self.preprocessing.normalize, parallel)
            self._placed[devices] = parallel, evaluate, parallel.replicate(self._variables)
        parallel, evaluate, variables = self._placed[devices]
        batch_size = -(-min(batch_size, len(images)) // parallel.global_count) * parallel.global_count
        return evaluate(variables, images, batch_size)


def load_run(directory: str | Path, checkpoint: Which = "best") -> Predictor:
    """Rebuild a trained model from its run directory, which is all that it needs.

    JAX's compilation cache is turned on, in the user's cache directory, unless it is set already.

    Args:
        directory: the run directory.
        checkpoint: "best" (by what the run monitored) or "latest".

    Raises:
        FileNotFoundError: no run or no checkpoint there.
        BadInput: no checkpoint is whole. If only the wanted one is damaged, another is taken, with a warning.
    """
    enable_compilation_cache()
    with Checkpoints(Path(directory)) as checkpoints:
        saved = checkpoints.read(checkpoint)
    spec = ModelSpec.from_dict(saved.meta)
    model = spec.abstract_model()
    model.eval()
    model = merge_model(nnx.graphdef(model), **jax.tree.map(jnp.asarray, saved.model))
    return Predictor(model, spec, saved.meta["config"], saved.step)
