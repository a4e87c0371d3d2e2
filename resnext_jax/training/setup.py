"""Everything that a run needs before its first step, made from its configuration and checked."""

from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from resnext_jax.data import (
    Dataset,
    Images,
    Preprocessing,
    Source,
    limit,
    load_images,
    open_dataset,
    steps_per_epoch,
)
from resnext_jax.data.augment import Augment, make_augment, make_mix
from resnext_jax.models import freeze_norms, trainable_mask
from resnext_jax.training.config import TrainConfig
from resnext_jax.training.console import Console
from resnext_jax.training.loss import Loss, class_weights
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
    augment: Augment
    train_step: TrainStep

    @property
    def parameters(self) -> int:
        """Numbers that training could change."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.state.params))

    @property
    def trained(self) -> int:
        """Numbers that training does change."""
        mask = trainable_mask(self.state.params, self.info.config.freeze)
        sizes = jax.tree.map(lambda leaf, trained: leaf.size * trained, self.state.params, mask)
        return sum(jax.tree.leaves(sizes))


def read_dataset(config: TrainConfig) -> Dataset:
    """The data of a run, split as it asks."""
    return open_dataset(
        config.data,
        data_dir=config.data_dir,
        val_fraction=config.val_fraction,
        split_seed=config.split_seed,
        group_by=config.group_by,
        fold=config.fold,
    )


def choose_split(config: TrainConfig, dataset: Dataset, name: str) -> Source:
    """A split of a run's data, reduced to what the run takes of it."""
    source = dataset.split(name)
    count = {"train": config.train_limit, "val": config.val_limit}.get(name)
    return source if count is None else limit(source, count, seed=config.split_seed)


def prepare(config: TrainConfig, parallel: DataParallel, console: Console) -> Setup:
    """Read the data and build the model of a run; writes nothing.

    Raises:
        ValueError: bad data, or a configuration that the data or the devices do not allow.
        FileNotFoundError: missing data or weights.
    """
    _check_batch(config, parallel.global_count)
    dataset = read_dataset(config)
    # A resumed run goes on as it began, also where the weights that it started from are gone.
    preprocess = read_info(config.out).preprocessing if config.resume else make_preprocessing(config)
    info = RunInfo(config, dataset.classes, preprocess)
    train, val = choose_split(config, dataset, "train"), choose_split(config, dataset, "val")
    loss = Loss(
        len(info.classes),
        config.label_smoothing,
        class_weights(config.class_weights, train.labels, info.classes),
    )
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
        head="new" if config.new_head else "strict",
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
    augment = make_augment(config)
    train_step = make_train_step(
        graphdef,
        optimizer,
        Normalize(info.preprocessing.mean, info.preprocessing.std),
        augment,
        loss,
        mix=make_mix(config.mixup, config.cutmix),
        frozen=config.freeze,
        accumulate=config.accumulate,
        ema_decay=config.ema_decay,
    )
    state = create_state(params, batch_stats, optimizer, config.seed, ema=config.ema_decay is not None)
    return Setup(
        info=info,
        train_images=train_images,
        val_images=val_images,
        steps_per_epoch=steps,
        eval_graphdef=eval_graphdef,
        state=parallel.replicate(state),
        augment=augment,
        train_step=train_step,
    )


def _check_batch(config: TrainConfig, devices: int) -> None:
    """Check that the devices share the batch evenly, and that each divides its own as it is asked to."""
    pairs = 2 if config.mixup or config.cutmix else 1
    # Pairs are made within a device's share, before it is divided into parts.
    for share, what in (
        (devices, f"{devices} devices"),
        (devices * config.accumulate, f"{devices} devices with accumulate={config.accumulate}"),
        (devices * pairs, f"pairs to mix on {devices} devices"),
    ):
        if config.batch_size % share:
            raise ValueError(
                f"batch_size={config.batch_size}: {what} do not divide it; use a multiple of {share}"
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
    geometry = Preprocessing(config.image_size, config.resize_size, resize=config.resize)
    if config.normalize == "half":
        return replace(geometry, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    weights = config.weights
    if config.normalize == "weights" and weights and (is_name(weights) or Path(weights).is_dir()):
        theirs = preprocessing(weights, config.model)
        return replace(geometry, mean=theirs.mean, std=theirs.std)
    return geometry
