"""Everything that a run needs before its first step, made from its configuration and checked."""

from dataclasses import dataclass, replace
from pathlib import Path

import jax.numpy as jnp
import optax
from flax import nnx

from resnext_jax.data import (
    Images,
    Preprocessing,
    Source,
    load_images,
    open_dataset,
    steps_per_epoch,
)
from resnext_jax.data.augment import Augment, chain, flip, pad_crop
from resnext_jax.models import freeze_norms
from resnext_jax.training.config import TrainConfig
from resnext_jax.training.console import Console
from resnext_jax.training.optimizer import make_optimizer
from resnext_jax.training.parallel import DataParallel
from resnext_jax.training.run import RunInfo, read_info
from resnext_jax.training.state import TrainState, create_state, split_model
from resnext_jax.training.step import AXIS, Normalize, TrainStep, make_train_step
from resnext_jax.weights import create_model, preprocessing
from resnext_jax.weights.named import is_name


@dataclass(frozen=True)
class Setup:
    """A run, ready to start: data in memory, model and optimiser in their initial state."""

    info: RunInfo
    train_images: Images
    val_images: Images
    steps_per_epoch: int
    eval_graphdef: nnx.GraphDef
    state: TrainState
    optimizer: optax.GradientTransformation
    train_step: TrainStep


def prepare(config: TrainConfig, parallel: DataParallel, console: Console) -> Setup:
    """Read the data and build the model of a run; writes nothing.

    Raises:
        ValueError: bad data, or a configuration that the data or the devices do not allow.
        FileNotFoundError: missing data or weights.
    """
    if config.batch_size % parallel.global_count:
        raise ValueError(
            f"batch_size={config.batch_size}: {parallel.global_count} devices do not divide it; use a "
            f"multiple of {parallel.global_count}"
        )
    dataset = open_dataset(
        config.data,
        data_dir=config.data_dir,
        val_fraction=config.val_fraction,
        split_seed=config.split_seed,
        group_by=config.group_by,
    )
    # A resumed run goes on as it began, also where the weights that it started from are gone.
    preprocess = read_info(config.out).preprocessing if config.resume else make_preprocessing(config)
    info = RunInfo(config, dataset.classes, preprocess)
    train, val = dataset.split("train"), dataset.split("val")
    # The splits share the memory that is allowed, by their number of images.
    share = config.cache_gib / (len(train) + len(val))
    train_images = read_images(train, "training", info, share * len(train), console)
    val_images = read_images(val, "validation", info, share * len(val), console)
    if len(train_images) < config.batch_size:
        raise ValueError(
            f"batch_size={config.batch_size}: more than the {len(train_images)} training images; "
            "use a smaller one"
        )

    model = create_model(
        config.model,
        num_classes=len(dataset.classes),
        weights=None if config.resume else config.weights,  # a checkpoint takes their place
        head="new",
        dtype=jnp.dtype(config.dtype),
        zero_init_residual=config.zero_init_residual,
        bn_axis_name=AXIS if config.sync_bn else None,
        rngs=nnx.Rngs(config.seed),
    )
    model.eval()
    eval_graphdef = nnx.graphdef(model)
    model.train()
    freeze_norms(model, config.freeze)
    graphdef, params, batch_stats = split_model(model)
    steps = steps_per_epoch(len(train_images), config.batch_size)
    optimizer = make_optimizer(config, steps)
    normalize = Normalize(info.preprocessing.mean, info.preprocessing.std)
    return Setup(
        info=info,
        train_images=train_images,
        val_images=val_images,
        steps_per_epoch=steps,
        eval_graphdef=eval_graphdef,
        state=parallel.replicate(create_state(params, batch_stats, optimizer, config.seed)),
        optimizer=optimizer,
        train_step=make_train_step(
            graphdef, optimizer, normalize, make_augment(config), frozen=config.freeze
        ),
    )


def read_images(source: Source, name: str, info: RunInfo, budget_gib: float, console: Console) -> Images:
    """Images of a split, decoded once where the budget allows, with progress."""
    with console.task(f"reading {name} images", len(source)) as update:
        return load_images(
            source,
            info.preprocessing,
            budget_bytes=int(budget_gib * 2**30),
            skip_bad=info.config.skip_bad_images,
            workers=info.config.workers,
            progress=lambda done, _: update(done, ""),
        )


def make_preprocessing(config: TrainConfig) -> Preprocessing:
    """Geometry that a configuration asks for, and the normalisation: its own or its weights'.

    The geometry is the configuration's always: who fine-tunes chooses the size anew.
    """
    geometry = Preprocessing(config.image_size, resize=config.resize)
    if config.normalize == "half":
        return replace(geometry, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    weights = config.weights
    if config.normalize == "weights" and weights and (is_name(weights) or Path(weights).is_dir()):
        theirs = preprocessing(weights, config.model)
        return replace(geometry, mean=theirs.mean, std=theirs.std)
    return geometry


def make_augment(config: TrainConfig) -> Augment:
    """Augmentation that a configuration asks for."""
    wanted = [flip] if config.flip else []
    if config.pad_crop:
        wanted.append(pad_crop(config.pad_crop))
    return chain(wanted)
