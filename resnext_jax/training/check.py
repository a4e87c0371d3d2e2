"""The rules of a configuration: ranges, and options that contradict each other."""

import dataclasses
import math
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from resnext_jax.errors import BadInput
from resnext_jax.models import abstract_model, get_config, trainable_mask
from resnext_jax.models.trees import split_model

if TYPE_CHECKING:
    from resnext_jax.training.config import TrainConfig

# Options that do nothing without another one: field -> the other field, and its values.
GOES_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "milestones": ("schedule", ("step",)),
    "plateau_factor": ("schedule", ("plateau",)),
    "plateau_patience": ("schedule", ("plateau",)),
    "plateau_min_delta": ("schedule", ("plateau",)),
    "min_lr": ("schedule", ("cosine", "plateau")),
    "momentum": ("optimizer", ("sgd",)),
    "nesterov": ("optimizer", ("sgd",)),
}


def check(config: "TrainConfig") -> None:
    """Check the fields, before anything is read.

    Raises:
        ValueError: a field out of range, or fields that contradict each other; the message names them.
    """
    get_config(config.model)
    _check_ranges(config)
    for name, (other, values) in GOES_WITH.items():
        if getattr(config, name) != _default(config, name) and getattr(config, other) not in values:
            raise BadInput(
                f"{name}={getattr(config, name)!r} with {other}={getattr(config, other)!r}: it goes with "
                f"{' or '.join(map(repr, values))}"
            )
    if config.fold and config.val_fraction != _default(config, "val_fraction"):
        raise BadInput(f"val_fraction={config.val_fraction} with fold={config.fold}: choose one")
    _check_schedule(config)
    _check_transfer(config)
    _check_loss(config)
    for name in ("accumulate", "repeats"):
        if config.batch_size % getattr(config, name):
            raise BadInput(
                f"{name}={getattr(config, name)}: it does not divide batch_size={config.batch_size}"
            )
    if config.nesterov and config.momentum == 0:
        raise BadInput("nesterov=True with momentum=0: Nesterov needs a momentum above 0")
    if config.resume and config.overwrite:
        raise BadInput("resume=True with overwrite=True: choose one")


def _check_ranges(config: "TrainConfig") -> None:
    def expect(valid: Callable[[Any], bool], expected: str, *names: str) -> None:
        for name in names:
            value = getattr(config, name)
            if value is not None and not valid(value):
                raise BadInput(f"{name}={value!r}: expected {expected}")

    for name, hint in typing.get_type_hints(type(config)).items():
        if typing.get_origin(hint) is Literal:
            choices = typing.get_args(hint)
            expect(choices.__contains__, f"one of {', '.join(choices)}", name)
    expect(lambda v: 0 < v < 1, "a share between 0 and 1", "val_fraction")
    expect(lambda v: 0 < v <= 100, "a number above 0 and at most 100", "lr", "head_lr")
    expect(lambda v: 0 <= v < 1, "a number from 0 to below 1", "momentum")
    decays = ("weight_decay", "norm_weight_decay", "bias_weight_decay")
    expect(lambda v: 0 <= v < 1, "a number from 0 to below 1", *decays)
    expect(lambda v: 0 <= v < 1, "a number from 0 to below 1", "label_smoothing")
    expect(lambda v: 0 < v < 1, "a number between 0 and 1", "plateau_factor", "ema_decay")
    natural = ("cache_gib", "warmup_epochs", "seed", "split_seed", "plateau_min_delta")
    expect(lambda v: v >= 0, "0 or more", *natural)
    expect(lambda v: v > 0, "above 0", "save_minutes", "clip_grad_norm")
    positive = ("epochs", "batch_size", "accumulate", "image_size", "workers", "devices")
    positive += ("train_limit", "val_limit", "repeats")
    expect(lambda v: v >= 1, "at least 1", *positive, "plateau_patience", "early_stop")
    expect(lambda v: v >= config.image_size, f"at least image_size={config.image_size}", "resize_size")
    expect(lambda v: 0 <= v[0] < v[1] and v[1] > 1, "a part, from 0, and how many there are, from 2", "fold")
    expect(lambda v: v < config.image_size, f"less than image_size={config.image_size}", "pad_crop")
    expect(lambda v: v < config.epochs, f"fewer than epochs={config.epochs}", "warmup_epochs")
    expect(lambda v: 0 <= v < config.lr, f"0 or more, and less than lr={config.lr}", "min_lr")


def _check_schedule(config: "TrainConfig") -> None:
    if config.schedule == "step" and not config.milestones:
        raise BadInput("schedule='step' without milestones: name the epochs that divide the rate")
    if list(config.milestones) != sorted(set(config.milestones)) or any(m < 1 for m in config.milestones):
        raise BadInput(f"milestones={config.milestones}: expected rising epochs of at least 1")
    if config.schedule == "onecycle" and config.warmup_epochs:
        raise BadInput(
            f"warmup_epochs={config.warmup_epochs} with schedule='onecycle': it has a warm-up of its own"
        )


def _check_transfer(config: "TrainConfig") -> None:
    if config.new_head and config.weights is None:
        raise BadInput("new_head=True without weights: the head is new anyhow")
    if not config.freeze:
        return
    if config.weights is None:
        raise BadInput(f"freeze={' '.join(config.freeze)!r} without weights: there is nothing learnt to keep")
    trained = trainable_mask(split_model(abstract_model(config.model))[1], config.freeze)
    if config.head_lr is not None and not any(trained["fc"].values()):
        raise BadInput(f"head_lr={config.head_lr} with a frozen head: leave fc out of freeze")


def _check_loss(config: "TrainConfig") -> None:
    weights = config.class_weights
    if weights is None:
        return
    if isinstance(weights, str) and weights != "balanced":
        raise BadInput(f"class_weights={weights!r}: expected 'balanced' or a number for each class")
    if not isinstance(weights, str) and not all(0 <= weight < math.inf for weight in weights):
        raise BadInput(f"class_weights={weights}: expected numbers of 0 or more")
    if config.balanced_sampler:
        raise BadInput(f"class_weights={weights!r} with balanced_sampler=True: choose one")
    if config.mixup or config.cutmix:
        raise BadInput(
            f"class_weights={weights!r} with mixup={config.mixup} and cutmix={config.cutmix}: a mixed label "
            "is of no one class; use balanced_sampler"
        )


def _default(config: "TrainConfig", name: str) -> Any:
    return next(field.default for field in dataclasses.fields(config) if field.name == name)
