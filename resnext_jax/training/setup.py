"""Everything that a run needs before its first step, made from its configuration and checked."""

import logging
from dataclasses import dataclass, replace

import jax.numpy as jnp
from flax import nnx

from resnext_jax.console import Console
from resnext_jax.data import (
    Fingerprint,
    Images,
    Normalize,
    Preprocessing,
    check_batch,
    check_same_images,
    copies_found,
    read_images,
    steps_per_epoch,
)
from resnext_jax.data.augment import Augment, make_augment, make_mix
from resnext_jax.devices import AXIS
from resnext_jax.errors import BadInput
from resnext_jax.models import Network, freeze_norms, get_config, split_model
from resnext_jax.runs import ModelSpec, read_config, read_spec
from resnext_jax.training.config import TrainConfig
from resnext_jax.training.loss import Loss, class_weights
from resnext_jax.training.optimizer import make_optimizer
from resnext_jax.training.state import TrainState, create_state
from resnext_jax.training.step import TrainStep, make_train_step
from resnext_jax.weights import create_model, open_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setup:
    """All that a run works with: its data, in memory if there is room, the model's structure, the step.

    `chosen_on_test` says that the best epoch is chosen on the test split, for want of a validation split.
    """

    config: TrainConfig
    spec: ModelSpec
    train_images: Images
    val_images: Images
    fingerprint: Fingerprint
    steps_per_epoch: int
    eval_graphdef: nnx.GraphDef
    augment: Augment
    train_step: TrainStep
    chosen_on_test: bool


def prepare(
    config: TrainConfig, devices: int, console: Console, *, resuming: bool = False
) -> tuple[Setup, TrainState]:
    """Read the data and build the model of a run; writes nothing.

    Args:
        config: the run.
        devices: how many share a batch, over all processes.
        console: where progress is shown.
        resuming: the run in `config.out` goes on: the model is as it says, and its checkpoint will take the
            place of the initial weights.

    Returns:
        What the run works with, and its initial state.

    Raises:
        BadInput: bad data, or a configuration that the data or the devices do not allow.
        FileNotFoundError: missing data or weights.
    """
    _check_shares(config, devices)
    dataset = config.open()
    told = None if resuming else preprocessing_of_weights(config)
    spec = read_spec(config.directory) if resuming else make_spec(config, dataset.classes, told)
    if spec.classes != dataset.classes:
        raise BadInput(
            f"data={config.data}: its classes are {', '.join(dataset.classes)}; those of the run in "
            f"{config.out} are {', '.join(spec.classes)}"
        )
    train, val = dataset.split("train"), dataset.split("val")
    if not resuming:
        for line in copies_found(dataset):
            log.warning("warning: %s", line)
    loss = Loss(
        len(spec.classes),
        config.label_smoothing,
        class_weights(config.class_weights, train.labels, spec.classes),
    )
    steps_per_epoch(len(train), config.batch_size, devices)
    sources = {"training": train, "validation": val}
    train_images, val_images = read_images(sources, spec.preprocessing, config, console).values()
    checksums = {"train": train_images.checksums, "val": val_images.checksums}
    fingerprint = Fingerprint.of({"train": train, "val": val}, checksums)
    if resuming:
        _check_images(config, fingerprint)
    steps = steps_per_epoch(len(train_images), config.batch_size, devices)
    model = create_model(
        spec.architecture if resuming else config.model,
        num_classes=len(dataset.classes),
        weights=None if resuming else config.weights,
        head="new" if config.new_head else "strict",
        dtype=jnp.dtype(config.dtype),
        preprocessing=spec.preprocessing,
        zero_init_residual=config.zero_init_residual,
        bn_axis_name=AXIS if config.sync_bn else None,
        drop_path=config.drop_path,
        init=config.init,
        rngs=nnx.Rngs(config.seed),
    )
    if config.weights and not (resuming or told or config.mean) and config.normalize == "weights":
        log.info("%s: does not say how images were prepared; normalised as ImageNet's", config.weights)
    model.eval()
    eval_graphdef = nnx.graphdef(model)
    train_step, state = prepare_step(config, model, spec.preprocessing.normalize, loss, steps)
    setup = Setup(
        config=config,
        spec=spec,
        train_images=train_images,
        val_images=val_images,
        fingerprint=fingerprint,
        steps_per_epoch=steps,
        eval_graphdef=eval_graphdef,
        augment=make_augment(config),
        train_step=train_step,
        chosen_on_test=dataset.val is dataset.test,
    )
    return setup, state


def _check_images(config: TrainConfig, fingerprint: Fingerprint) -> None:
    """Check that the images are those that the run began with; they may lie elsewhere."""
    saved = read_config(config.directory)
    if "data" in saved:
        check_same_images(fingerprint, saved["data"], config.data, config.directory)
    elif saved["config"]["data"] != config.data:
        raise BadInput(
            f"data={config.data}: the run in {config.out} does not say what images it was trained on; leave "
            f"them where they were, {saved['config']['data']}"
        )


def prepare_step(
    config: TrainConfig, model: Network, normalize: Normalize, loss: Loss, steps_per_epoch: int
) -> tuple[TrainStep, TrainState]:
    """The step that a configuration asks for, and the state before the first one.

    Args:
        config: the run.
        model: the network in its initial state; the call puts it into training form.
        normalize: uint8 images to floats.
        loss: of each example.
        steps_per_epoch: for the schedule of the learning rate.
    """
    model.train()
    model.remat = config.remat
    freeze_norms(model, config.freeze)
    graphdef, params, batch_stats = split_model(model)
    optimizer = make_optimizer(config, steps_per_epoch)
    step = make_train_step(
        graphdef,
        optimizer,
        normalize,
        make_augment(config),
        loss,
        mix=make_mix(config.mixup, config.cutmix),
        frozen=config.freeze,
        accumulate=config.accumulate,
        ema_decay=config.ema_decay,
        skip_nan=config.on_nan == "skip",
        stochastic=config.drop_path > 0,
    )
    return step, create_state(params, batch_stats, optimizer, config.seed, ema=config.ema_decay is not None)


def _check_shares(config: TrainConfig, devices: int) -> None:
    """Check that the devices share the batch evenly, and that each divides its own as it is asked to."""
    check_batch(config.batch_size, devices, f"{devices} devices")
    if config.accumulate > 1:
        what = f"{devices} devices with accumulate={config.accumulate}"
        check_batch(config.batch_size, devices * config.accumulate, what)
    if config.mixup or config.cutmix:
        # Pairs are made within a device's share, before it is divided into parts.
        check_batch(config.batch_size, devices * 2, f"pairs to mix on {devices} devices")


def make_spec(config: TrainConfig, classes: tuple[str, ...], told: Preprocessing | None) -> ModelSpec:
    """The model that a configuration asks for; `told` is `preprocessing_of_weights`."""
    prepare = make_preprocessing(config, told)
    return ModelSpec(config.model, get_config(config.model), classes, prepare, dtype=config.dtype)


def preprocessing_of_weights(config: TrainConfig) -> Preprocessing | None:
    """How images were prepared for the initial weights, if they say it."""
    return open_weights(config.weights, config.model).description.preprocessing if config.weights else None


def make_preprocessing(config: TrainConfig, told: Preprocessing | None) -> Preprocessing:
    """Geometry that a configuration asks for; filter and normalisation are its own or what weights told.

    The sizes always come from the configuration: fine-tuning chooses its own.
    """
    theirs = told or Preprocessing()
    resize_size = config.resize_size
    if config.crop_pct is not None:
        resize_size = int(config.image_size / config.crop_pct)
    prepare = Preprocessing(
        config.image_size,
        resize_size,
        config.resize,
        config.interpolation or theirs.interpolation,
    )
    if config.normalize == "weights":
        prepare = replace(prepare, mean=theirs.mean, std=theirs.std)
    elif config.normalize == "half":
        prepare = replace(prepare, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return replace(prepare, mean=config.mean or prepare.mean, std=config.std or prepare.std)
