"""A trained run, ready to use: classify images, evaluate splits."""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from resnext_jax.console import Console, Update
from resnext_jax.data import (
    BadImages,
    DataConfig,
    Dataset,
    Fingerprint,
    Geometry,
    GivenImages,
    ImageLike,
    Images,
    Pixels,
    Preprocessing,
    Relabelled,
    Source,
    check_same_images,
    decode,
    groups_of,
    read_images,
)
from resnext_jax.devices import Batch, DataParallel, enable_compilation_cache
from resnext_jax.errors import BadInput
from resnext_jax.inference.evaluation import LabelledPredictions
from resnext_jax.inference.evaluator import Evaluator
from resnext_jax.inference.explain import Explanations, Method, choose_targets, evidence
from resnext_jax.inference.features import Features, make_features
from resnext_jax.inference.predictions import Predictions
from resnext_jax.inference.tta import views
from resnext_jax.models import ResNet, Tree, merge_model, split_model
from resnext_jax.runs import CONFIG, Checkpoints, ModelSpec, Which, read_config

logger = logging.getLogger(__name__)

SPLIT_FIELDS = {"val_fraction", "split_seed", "group_by", "fold", "train_limit", "val_limit"}
"""Fields of `DataConfig` that say how data are divided."""


class Predictor:
    """A trained model with all that it needs to classify images; made by `load_run`.

    Args:
        model: in evaluation form.
        spec: variant, classes and preprocessing.
        settings: configuration of the run, as plain JSON values; {} if the weights were trained elsewhere.
        step: training steps behind the checkpoint.
        directory: of the run.
        trained_on: summary of the images that the run was trained on, if it has one.
    """

    def __init__(
        self,
        model: ResNet,
        spec: ModelSpec,
        settings: dict[str, Any],
        step: int,
        directory: Path = Path(),
        trained_on: dict[str, Any] | None = None,
    ):
        self.model, self.spec, self.settings, self.step = model, spec, settings, step
        self.directory, self.trained_on = directory, trained_on
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
        tta: bool = False,
        batch_size: int = 32,
        skip_bad_images: bool = False,
        update: Update | None = None,
    ) -> Predictions:
        """Classify images, and keep them and their probabilities in memory.

        Args:
            images: one or several of these, in any mixture: files, folders (all images below them), patterns
                such as `scans/*.png`, arrays (uint8 [h, w, 3], upright RGB of any size) and pictures of
                Pillow's.
            tta: average the probabilities of ten views of each image: its centre, its corners, and their
                mirror images (test-time augmentation); ten times the work.
            batch_size: images at a time.
            skip_bad_images: leave unreadable images out, naming each, instead of raising.
            update: progress: images done.

        Raises:
            FileNotFoundError: a path that is not there, or a folder without images.
            BadInput: unreadable images, all named.

        Example:
            >>> predictor = rj.load_run("checkpoints/run")  # doctest: +SKIP
            >>> predictor.predict(["photo.jpg", "scans"]).top(2)  # doctest: +SKIP
        """
        source = GivenImages(images, self.classes)
        parts = []
        for part in self.stream(source, tta=tta, batch_size=batch_size, skip_bad_images=skip_bad_images):
            parts.append(part)
            if update:
                update(sum(len(part.keys) for part in parts), "")
        return Predictions.joined(parts)

    def stream(
        self,
        images: ImageLike | Sequence[ImageLike] | Source,
        *,
        tta: bool = False,
        batch_size: int = 32,
        skip_bad_images: bool = False,
        devices: int | None = None,
    ) -> Iterator[Predictions]:
        """Classify any number of images in constant memory: some are decoded while others are computed.

        Args:
            images: as in `predict`; or a source, such as a split of a data set.
            tta: as in `predict`.
            batch_size: images at a time.
            skip_bad_images: leave unreadable images out, naming each, instead of raising.
            devices: use only this many; None: all of this host.

        Yields:
            The predictions for one batch after the other.

        Raises:
            FileNotFoundError: a path that is not there, or a folder without images.
            BadInput: unreadable images, behind the predictions for all others.
        """
        given: Any = images
        source: Source = given if hasattr(images, "labels") else GivenImages(given, self.classes)
        if not len(source):
            raise BadInput("there is no image to classify")
        seen: Sequence[Geometry] = views(self.preprocessing) if tta else [self.preprocessing]
        # Bad images are named once, not for every view.
        loaded = [
            Images(source, view, skip_bad=True, named=skip_bad_images and i == 0)
            for i, view in enumerate(seen)
        ]
        streams = [self._stream(images, batch_size, devices, skip_bad_images) for images in loaded]
        return map(_averaged, zip(*streams, strict=True)) if tta else streams[0]

    def _stream(
        self, loaded: Images, batch_size: int, devices: int | None, skip_bad: bool
    ) -> Iterator[Predictions]:
        under_way: deque[tuple[jax.Array, Batch]] = deque()
        parallel, evaluate, variables, batch_size = self._place(batch_size, len(loaded), devices)
        start = 0

        def finish() -> Predictions:
            nonlocal start
            result, batch = under_way.popleft()
            good = parallel.gather([batch["mask"]])
            keys = loaded.keys[start : start + batch_size]
            start += batch_size
            return Predictions(
                [key for key, is_good in zip(keys, good, strict=False) if is_good],
                parallel.gather([batch["image"]])[good],
                np.exp(parallel.gather([result])[good]),
                self.classes,
            )

        for part in evaluate.stream(variables, loaded, batch_size):
            under_way.append(part)
            if len(under_way) > 1:
                yield finish()
        while under_way:
            yield finish()
        if loaded.bad and not skip_bad:
            raise BadImages(loaded.why_bad(), len(loaded))

    def features(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        stage: str = "pool",
        batch_size: int = 32,
        skip_bad_images: bool = False,
        update: Update | None = None,
    ) -> Features:
        """What the network makes of images before it classifies them.

        Args:
            images: as in `predict`.
            stage: "pool", what the head sees; or "stem", "layer1", ...: the mean over its pixels.
            batch_size: images at a time.
            skip_bad_images: leave unreadable images out, naming each, instead of raising.
            update: progress: images done.

        Raises:
            FileNotFoundError: a path that is not there, or a folder without images.
            BadInput: unreadable images; no such stage.
        """
        compute = make_features(self.model, self.preprocessing, stage)
        source = GivenImages(images, self.classes)
        loaded = Images(source, self.preprocessing, skip_bad=skip_bad_images, named=skip_bad_images)
        keys, values, probabilities = [], [], []
        for start in range(0, len(loaded), batch_size):
            # The last batch is filled up with its first image, so that nothing is compiled for it alone.
            chosen = np.arange(start, start + min(batch_size, len(loaded)))
            count = min(len(chosen), len(loaded) - start)
            chosen[count:] = start
            pixels, good = loaded.read(chosen)
            good[count:] = False
            found = compute(pixels)
            keys += [loaded.keys[i] for i in chosen[good]]
            values.append(np.asarray(found[0])[good])
            probabilities.append(np.asarray(found[1])[good])
            if update:
                update(start + count, "")
        if not keys:
            raise BadInput("there is no image that can be read")
        return Features(keys, np.concatenate(values), np.concatenate(probabilities), self.classes, stage)

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
        **changes: Any,
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
            All that `LabelledPredictions.metrics` returns.

        Raises:
            BadInput: no such split, a class that the model does not know, or a split "train" or "val" of data
                that have to be divided and are not those of the training.
            FileNotFoundError: the data are not there.

        Example:
            >>> predictor = rj.load_run("checkpoints/run")  # doctest: +SKIP
            >>> predictor.evaluate("val")["top1"]  # doctest: +SKIP
        """
        options: dict[str, Any] = {"quiet": quiet, "batch_size": batch_size, "devices": devices}
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
        self._check_classes(config.data, dataset.classes)
        source = dataset.split(split)
        if split != "all" and dataset.undivided and not SPLIT_FIELDS & changes.keys():
            self._check_images(config.data, dataset)
        # The expression for groups is about the names of the data that the run was trained on.
        is_other = split == "all" and "data" in changes and "group_by" not in changes
        groups = groups_of(source, None if is_other else config.group_by)
        source = Relabelled(source, self.classes)
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
        size = batch_size or int(self.settings.get("batch_size", 32))
        log_probabilities, read = self._log_probabilities(images, size, devices)
        images = images.subset(read)
        if groups is not None and len(images) < len(source):  # some could not be read
            group_of = dict(zip(source.keys, groups, strict=True))
            groups = [group_of[key] for key in images.keys]
        return LabelledPredictions(images, log_probabilities, self.classes, groups)

    def _check_classes(self, data: str, classes: Sequence[str]) -> None:
        """Check that the model knows all classes of some data; say which of its own are missing."""
        if unknown := [name for name in classes if name not in self.classes]:
            raise BadInput(
                f"data={data}: its classes are {', '.join(classes)}; the model tells apart "
                f"{', '.join(self.classes)}, and does not know {', '.join(unknown)}"
            )
        if missing := [name for name in self.classes if name not in classes]:
            logger.warning("%s: no images of %s", data, ", ".join(missing))

    def _check_images(self, data: str, dataset: Dataset) -> None:
        """Check that data which are divided as in training are the training's: others would be mixed up."""
        if self.trained_on is not None:
            now = Fingerprint.of({"train": dataset.split("train"), "val": dataset.split("val")})
            check_same_images(now, self.trained_on, data, self.directory)

    def data_config(self, **changes: object) -> DataConfig:
        """The data that the run was trained on, with some fields replaced."""
        known = [f.name for f in fields(DataConfig)]
        if unknown := sorted(set(changes) - set(known)):
            raise TypeError(f"{', '.join(unknown)}: no field of DataConfig, which has {', '.join(known)}")
        try:
            config = DataConfig.pick(self.settings)
        except BadInput as error:
            raise BadInput(f"{self.directory / CONFIG}: {error}") from None
        if "data" in changes:
            config = config.elsewhere(str(changes["data"]))
        return replace(config, **changes)

    def _log_probabilities(
        self, images: Any, batch_size: int, devices: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `Evaluator` has them."""
        _, evaluate, variables, batch_size = self._place(batch_size, len(images), devices)
        return evaluate(variables, images, batch_size)

    def _place(
        self, batch_size: int, count: int, devices: int | None
    ) -> tuple[DataParallel, Evaluator, Tree, int]:
        """Devices, the evaluator and the model on them; the batch is rounded up to what they share evenly."""
        if devices not in self._placed:
            parallel = DataParallel(devices)
            evaluate = Evaluator(self._graphdef, self.preprocessing.normalize, parallel)
            self._placed[devices] = parallel, evaluate, parallel.replicate(self._variables)
        parallel, evaluate, variables = self._placed[devices]
        batch_size = -(-min(batch_size, count) // parallel.global_count) * parallel.global_count
        return parallel, evaluate, variables, batch_size


def _averaged(parts: Sequence[Predictions]) -> Predictions:
    """Predictions of the same images by several views: the images of the first, the mean probabilities."""
    return replace(parts[0], probabilities=np.mean([part.probabilities for part in parts], axis=0))


def load_run(directory: str | Path, checkpoint: Which = "best") -> Predictor:
    """Rebuild a trained model from its run directory, which is all that it needs.

    JAX's compilation cache is turned on, in the user's cache directory, unless it is set already.

    Args:
        directory: the run directory.
        checkpoint: "best" (by what the run monitored) or "latest".

    Raises:
        FileNotFoundError: no run or no checkpoint there.
        BadInput: no checkpoint is whole, or the one that is has weights that are not finite. If only the
            wanted one is damaged, another is taken, with a warning.

    Example:
        >>> from resnext_jax.inference import convert_to_run
        >>> from resnext_jax.weights import write_weights
        >>> model = rj.create_model("test_resnet", num_classes=2)
        >>> write_weights(Path("a.safetensors"), rj.to_torch_state_dict(model))
        >>> _ = convert_to_run("a.safetensors", Path("run"))
        >>> predictor = rj.load_run("run")
        >>> predictor.classes, predictor.preprocessing.image_size
        (('0', '1'), 224)
    """
    enable_compilation_cache()
    with Checkpoints(Path(directory)) as checkpoints:
        saved = checkpoints.read(checkpoint)
        if not _is_finite(saved.model):
            raise BadInput(_not_finite(checkpoints, Path(directory), saved.which, saved.step))
    spec = ModelSpec.from_dict(saved.meta)
    model = spec.abstract_model()
    model.eval()
    model = merge_model(nnx.graphdef(model), **jax.tree.map(jnp.asarray, saved.model))
    settings = saved.meta["config"] | _places(Path(directory))
    return Predictor(model, spec, settings, saved.step, Path(directory), saved.meta.get("data"))


def _is_finite(model: Tree) -> bool:
    return all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves(model))


def _not_finite(checkpoints: Checkpoints, directory: Path, which: Which, step: int) -> str:
    """What is wrong, and which checkpoint to take in its place."""
    message = f"{directory}: the {which} checkpoint, of step {step}, has weights that are not finite"
    other: Which = "latest" if which == "best" else "best"
    another = checkpoints.step_of(other)
    if another != step and _is_finite(checkpoints.read_model(another)):
        return f"{message}; the last finite one is that of step {another}: use checkpoint={other!r}"
    return f"{message}; no other one is finite: train again, with a lower rate"


def _places(directory: Path) -> dict[str, Any]:
    """Where the data of a run are now: they may have moved since a checkpoint was saved."""
    try:
        config = read_config(directory)["config"]
        return {name: config[name] for name in ("data", "data_dir", "image_dir") if name in config}
    except (OSError, ValueError, LookupError, TypeError):  # the checkpoint is all that is needed
        return {}
