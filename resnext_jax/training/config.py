"""What a training run is: one frozen record, checked as a whole before anything is read."""

import dataclasses
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from resnext_jax.data import DataConfig
from resnext_jax.data.augment import AugmentConfig
from resnext_jax.errors import BadInput
from resnext_jax.runs import Monitor, read_config
from resnext_jax.training.check import check

# A resumed run may differ in these: where and how it runs, not what it computes.
FREE_FIELDS = {"out", "resume", "overwrite", "epochs"} | {"data_dir", "cache_gib", "workers", "save_minutes"}
FREE_FIELDS |= {"devices", "distributed", "early_stop", "tensorboard"}


@dataclass(frozen=True)
class TrainConfig(AugmentConfig, DataConfig):
    """A training run, from data to run directory. Every field is a flag of `resnext-jax train`."""

    # Images
    image_size: int = 224
    """Side of the square image that the network sees, in pixels."""
    resize_size: int | None = None
    """Length of the shorter side before the centre crop (torchvision's weights: 256 or 232; default: the
    image size)."""
    resize: Literal["crop", "stretch"] = "crop"
    """Shorter side to the size and centre crop, or the whole image squeezed into the square."""
    normalize: Literal["weights", "imagenet", "half"] = "weights"
    """Mean and deviation: those that `weights` were trained with, where they say so (a run directory or
    torchvision's name), else ImageNet's; ImageNet's; or 0.5 and 0.5 (pixels to [-1, 1])."""

    # Model
    model: str = "resnext50_32x4d"
    """A name of `resnext-jax models`."""
    weights: str | None = None
    """Start from a file (.pth, .safetensors), a run directory or torchvision's name of weights
    (IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT: the best); default: from scratch."""
    new_head: bool = False
    """Leave the head of `weights` and train a new one: needed where theirs is of other classes in number."""
    freeze: tuple[str, ...] = ()
    """Parts of the given weights that stay as they are, batch statistics too: beginnings of parameter names
    (conv1,bn1,layer1), or `backbone`: all but the head."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type; parameters and batch statistics are float32 always."""
    zero_init_residual: bool = False
    """Start every residual branch at zero (Goyal et al. 2017)."""
    sync_bn: bool = False
    """Batch statistics over all devices; otherwise each device normalises with its own part of the batch,
    the running statistics are the devices' mean, and results depend on the number of devices."""

    # Optimisation
    epochs: int = 20
    """Passes over the training images."""
    batch_size: int = 32
    """Images in a step, over all devices and hosts."""
    optimizer: Literal["sgd", "adam", "adamw", "lamb"] = "sgd"
    """sgd and adam add the weight decay to the gradient (as torch does); adamw and lamb decouple it."""
    lr: float = 0.1
    """Learning rate, at its highest."""
    head_lr: float | None = None
    """Learning rate of the head `fc`, under the same schedule (default: lr)."""
    momentum: float = 0.9
    """Of sgd."""
    nesterov: bool = False
    """Nesterov momentum, of sgd."""
    weight_decay: float = 0.0
    """Weight decay of all parameters that the next two leave."""
    norm_weight_decay: float | None = None
    """Weight decay of batch norms (default: weight_decay)."""
    bias_weight_decay: float | None = None
    """Weight decay of biases, those of batch norms included (default: as of the parameters beside them)."""
    clip_grad_norm: float | None = None
    """Scale the gradient down to this norm where it is larger."""
    accumulate: int = 1
    """Compute each batch in this many parts, one after the other, to save memory; the step is that of the
    whole batch, but that batch norms see each part by itself."""
    ema_decay: float | None = None
    """Keep a moving average of the weights with this decay (0.999, say), rising to it over the first steps;
    it is what is validated, saved as the model and exported."""

    # Learning rate over the run
    schedule: Literal["constant", "cosine", "step", "onecycle", "plateau"] = "constant"
    """constant; cosine to `min_lr`; step: divided by 10 at each of `milestones`; onecycle: from lr / 25 up to
    lr in the first 30 % of the steps, then down to almost 0; plateau: reduced where the validation loss does
    not fall."""
    milestones: tuple[int, ...] = ()
    """Epochs at which schedule `step` divides the rate."""
    warmup_epochs: int = 0
    """Epochs in which the rate rises from 0, before the schedule."""
    plateau_factor: float = 0.1
    """What schedule `plateau` multiplies the rate by."""
    plateau_patience: int = 10
    """Epochs without a lower validation loss after which it does."""
    plateau_min_delta: float = 1e-4
    """How much lower the loss must be to count."""
    min_lr: float = 0.0
    """Where schedule `cosine` ends, and what `plateau` does not go below."""

    # Loss, and classes of unequal size
    label_smoothing: float = 0.0
    """Share of each label that is spread over all classes, in training."""
    class_weights: Literal["balanced"] | tuple[float, ...] | None = None
    """Weigh the training loss by class: `balanced`, in inverse proportion to their numbers of images, or a
    factor for each class, in the order of their names."""
    balanced_sampler: bool = False
    """Draw training images of all classes equally often: an epoch is as long, with some images of large
    classes left out and those of small ones repeated."""

    repeats: int = 1
    """Put each image of a batch in it this many times, augmented each time anew (Hoffer et al. 2020;
    torchvision: 4): an epoch is as long, and sees as many times fewer of the images."""

    # The best epoch
    monitor: Monitor = "top1"
    """What makes an epoch the best: validation top-1 (of equal ones, loss), or validation loss alone."""
    early_stop: int | None = None
    """Stop when the best epoch is this many epochs back; evaluation, prediction and export use the best."""

    # Run
    seed: int = 0
    """Of the initial weights, the order of the images and the augmentation."""
    out: Path = Path("checkpoints/run")
    """Run directory: configuration, history, checkpoints, curves."""
    resume: bool = False
    """Go on where the run in `out` stopped; flags that are not given are the run's own."""
    overwrite: bool = False
    """Replace the run in `out`."""
    save_minutes: float = 10.0
    """Save within an epoch too, this often, so that long epochs survive a dead machine."""
    tensorboard: bool = False
    """Write TensorBoard's event files, to `tensorboard/` in the run directory (the command does; in Python
    give `fit` the writer `reports.tensorboard.TensorBoard()`)."""
    devices: int | None = None
    """Use only this many devices of each host (default: all)."""
    distributed: bool = False
    """One process of many: join them by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or by
    what the cluster (SLURM, TPU pod) says."""

    def check(self) -> None:
        """Check the fields, before anything is read; `fit` does it.

        Raises:
            ValueError: a field out of range, or fields that contradict each other; the message names them.
        """
        super().check()
        check(self)

    def differences(self, other: "TrainConfig") -> list[str]:
        """Fields in which a resumed run may not differ from `other` and does, as "name: other's -> ours"."""
        # Epochs may be added, but not under a schedule that is stretched over them.
        free = FREE_FIELDS if self.schedule not in ("cosine", "onecycle") else FREE_FIELDS - {"epochs"}
        pairs = ((f.name, getattr(other, f.name), getattr(self, f.name)) for f in dataclasses.fields(self))
        return [
            f"{name}: {theirs} -> {ours}"
            for name, theirs, ours in pairs
            if name not in free and ours != theirs
        ]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        plain = dataclasses.asdict(self)
        return {
            k: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v
            for k, v in plain.items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """Back from `to_dict`; fields that this version does not know raise a ValueError."""
        hints = typing.get_type_hints(cls)
        unknown = sorted(set(values) - set(hints))
        if unknown:
            raise BadInput(
                f"unknown fields in the run's config: {', '.join(unknown)}; written by another version?"
            )

        def restore(name: str, value: Any) -> Any:
            kinds = typing.get_args(hints[name]) or (hints[name],)
            if Path in kinds and value is not None:
                return Path(value)
            return tuple(value) if isinstance(value, list) else value

        return cls(**{name: restore(name, value) for name, value in values.items()})


def saved_config(directory: Path) -> TrainConfig:
    """What the run in a directory was configured as.

    Raises:
        FileNotFoundError: there is no run.
        BadInput: a run of converted weights, which was not trained here; or of another version.
    """
    config = read_config(directory)["config"]
    if not config.get("data"):
        raise BadInput(
            f"out={directory}: converted weights, not a run to go on with; start one with weights={directory}"
        )
    return TrainConfig.from_dict(config)
