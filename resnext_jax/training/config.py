"""What a training run is: one frozen record, put together from parts and checked before anything is read."""

import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Self

import jax

from resnext_jax.data import DataConfig, Interpolation
from resnext_jax.data.augment import AugmentConfig
from resnext_jax.devices import MapBy
from resnext_jax.errors import BadInput
from resnext_jax.fields import Config, Free, GoesWith, NotWith, Range, shown
from resnext_jax.models import abstract_model, get_config, split_model, trainable_mask
from resnext_jax.runs import CONFIG, Monitor, read_config

RUNS = Path("checkpoints")
"""Where runs go that are not told where to go."""

MOST_EPOCHS = 1_000_000
MOST_SEED = 2**32 - 1

LAYERWISE = ("lars", "lamb")
"""Optimisers that fit the rate to each layer, but to no bias or norm; these do not decay either."""
BY_ROOT = ("adam", "adamw", "lamb")
"""Optimisers whose rate grows with the square root of the batch; the others' grows in proportion."""

Decay = Annotated[float, Range(least=0, below=1)]
Positive = Annotated[int, Range(least=1)]


@dataclass(frozen=True, kw_only=True)
class ImageConfig(Config):
    """How an image file becomes what the network sees."""

    image_size: Positive = 224
    """Side of the square image that the network sees, in pixels."""
    resize_size: Annotated[int | None, Range(least="image_size")] = None
    """Length of the shorter side before the centre crop (torchvision's weights: 256 or 232; default: the
    image size)."""
    resize: Literal["crop", "stretch"] = "crop"
    """crop: resize the shorter side, then crop the centre; stretch: squeeze the whole image into the
    square."""
    crop_pct: Annotated[float | None, Range(above=0, most=1), NotWith("resize_size")] = None
    """image_size / resize_size, as timm states it, in the place of resize_size."""
    interpolation: Interpolation | None = None
    """Filter of the resize (default: that which `weights` were trained with if known, else bilinear). nearest
    is what Keras does."""
    normalize: Literal["weights", "imagenet", "half"] = "weights"
    """Mean and standard deviation. weights: those that `weights` were trained with if known, else ImageNet's;
    imagenet: ImageNet's; half: 0.5 and 0.5 (pixels to [-1, 1])."""
    mean: tuple[float, float, float] | None = None
    """Mean of each RGB channel of the pixels scaled to [0, 1], in the place of normalize's."""
    std: Annotated[tuple[float, float, float] | None, Range(above=0)] = None
    """Standard deviation of each RGB channel, in the place of normalize's."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """The network, and the weights that it starts from."""

    model: str = "resnext50_32x4d"
    """A name of `resnext-jax models`."""
    weights: str | None = None
    """Start from a file of weights, a run directory, torchvision's name (IMAGENET1K_V1, IMAGENET1K_V2,
    DEFAULT), a tag of timm's (a1h_in1k) or a repository of the Hugging Face hub (owner/name);
    `resnext-jax models --weights` lists names and tags; default: from scratch."""
    new_head: Annotated[bool, GoesWith("weights")] = False
    """Train a new head instead of the one in `weights`; required if the number of classes differs."""
    freeze: Annotated[tuple[str, ...], GoesWith("weights")] = ()
    """Parts of the given weights to keep as they are, with their batch statistics: beginnings of parameter
    names (conv1,bn1,layer1), or `backbone`: all but the head."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type; parameters and batch statistics are always float32."""
    zero_init_residual: bool = False
    """Start every residual branch at zero (Goyal et al. 2017)."""
    init: Annotated[Literal["torchvision", "torch"], NotWith("weights")] = "torchvision"
    """How convolutions start: as torchvision and timm initialise them, or as torch does by itself (uniform,
    by the number of inputs)."""
    drop_path: Annotated[float, Range(least=0, below=1)] = 0.0
    """Stochastic depth: leave out the branch of the last block for this share of the training images, and
    those before it more seldom, evenly down to 0 at the first (Huang et al. 2016)."""
    sync_bn: bool = False
    """Compute batch statistics over all devices. Otherwise each device normalises its own part of the batch,
    the running statistics are the mean over the devices, and results depend on the number of devices."""

    def check(self) -> None:
        super().check()
        get_config(self.model)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Config):
    """Batches, and the step that each makes."""

    epochs: Annotated[
        int, Range(least=1, most=MOST_EPOCHS), Free(unless=("schedule", "cosine", "onecycle"))
    ] = 20
    """Passes over the training images."""
    batch_size: Positive = 32
    """Images in a step, over all devices and hosts."""
    optimizer: Literal["sgd", "adam", "adamw", "lars", "lamb"] = "sgd"
    """sgd and adam add the weight decay to the gradient (as torch does); adamw and lamb decouple it. lars and
    lamb are for batches of thousands."""
    lr: Annotated[float | None, Range(above=0, most=100)] = None
    """Highest learning rate (default: for sgd 0.1 and for lars 0.25 for a batch of 256, in proportion to the
    batch; 0.001 for adam and adamw; 0.005 for lamb)."""
    lr_base_size: Annotated[int | None, Range(least=1), GoesWith("lr")] = None
    """Batch for which `lr` is meant, such as 256: the highest rate is lr times batch_size / lr_base_size, or
    its square root for adam, adamw and lamb; and the run warms up (see warmup_epochs)."""
    head_lr: Annotated[float | None, Range(above=0, most=100)] = None
    """Learning rate of the head `fc`, under the same schedule (default: lr)."""
    layer_decay: Annotated[float, Range(above=0, most=1)] = 1.0
    """Lower the rates towards the input: each stage's rate is that of the next one times this factor, counted
    down from the head, which has the full rate; conv1 and bn1 are one stage before layer1."""
    momentum: Annotated[float, Range(least=0, below=1), GoesWith("optimizer", "sgd", "lars")] = 0.9
    """Momentum of sgd and lars."""
    nesterov: Annotated[bool, GoesWith("optimizer", "sgd", "lars")] = False
    """Nesterov momentum for sgd and lars."""
    weight_decay: Decay = 0.0
    """Weight decay of all parameters that the next two flags leave out."""
    norm_weight_decay: Annotated[float | None, Range(least=0, below=1)] = None
    """Weight decay of batch norms (default: weight_decay; 0 for lars and lamb)."""
    bias_weight_decay: Annotated[float | None, Range(least=0, below=1)] = None
    """Weight decay of biases, those of batch norms included (default: that of the parameters beside them; 0
    for lars and lamb)."""
    clip_grad_norm: Annotated[float | None, Range(above=0)] = None
    """Scale the gradient down to this norm if it is larger."""
    accumulate: Positive = 1
    """Compute each batch in this many parts, one after the other, to save memory. The step is that of the
    whole batch, except that batch norms see each part by itself."""
    remat: Annotated[bool, Free()] = False
    """Keep only the input of each block for the backward pass, which computes the block once more: less than
    half the memory, a third more work, the same numbers."""
    repeats: Positive = 1
    """Put each image into a batch this many times, augmented anew each time (Hoffer et al. 2020; torchvision:
    4). An epoch has as many steps, and covers 1/repeats of the images."""
    ema_decay: Annotated[float | None, Range(above=0, below=1)] = None
    """Keep a moving average of the weights with this decay (such as 0.999), which rises to it over the first
    steps. The average is what is validated, saved as the model and exported."""

    def check(self) -> None:
        super().check()
        for name in ("accumulate", "repeats"):
            if self.batch_size % getattr(self, name):
                raise BadInput(f"{shown(self, name)}: expected a divisor of batch_size={self.batch_size}")
        if self.nesterov and self.momentum == 0:
            raise BadInput("nesterov=True with momentum=0: expected a momentum above 0")

    @property
    def peak_lr(self) -> float:
        """The highest learning rate: `lr` for this batch, or the default for optimiser and batch."""
        if self.lr is not None and self.lr_base_size is not None:
            times = self.batch_size / self.lr_base_size
            return self.lr * (times**0.5 if self.optimizer in BY_ROOT else times)
        if self.lr is not None:
            return self.lr
        for_256 = {"sgd": 0.1, "lars": 0.25}
        if self.optimizer in for_256:
            return for_256[self.optimizer] * self.batch_size / 256
        return 0.005 if self.optimizer == "lamb" else 0.001


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig(Config):
    """The learning rate over the run."""

    schedule: Literal["constant", "cosine", "step", "onecycle", "plateau"] = "constant"
    """constant; cosine: down to `min_lr`; step: divide by 10 at each of `milestones`; onecycle: from lr / 25
    up to lr in the first 30 % of the steps, then down to almost 0; plateau: reduce when the validation loss
    stops falling."""
    milestones: Annotated[
        tuple[int, ...], Range(least=1, most=MOST_EPOCHS), GoesWith("schedule", "step")
    ] = ()
    """Epochs at which schedule `step` divides the rate."""
    warmup_epochs: Annotated[int, Range(least=0, below="epochs"), NotWith("schedule", "onecycle")] = 0
    """Epochs in which the rate rises from 0, before the schedule (default: none; with lr_base_size 5, and in
    proportion more for batches above 8192)."""
    plateau_factor: Annotated[float, Range(above=0, below=1), GoesWith("schedule", "plateau")] = 0.1
    """Factor by which schedule `plateau` multiplies the rate."""
    plateau_patience: Annotated[int, Range(least=1), GoesWith("schedule", "plateau")] = 10
    """Epochs without a lower validation loss before `plateau` reduces the rate."""
    plateau_min_delta: Annotated[float, Range(least=0), GoesWith("schedule", "plateau")] = 1e-4
    """By how much the validation loss must fall to count as lower."""
    min_lr: Annotated[float, Range(least=0), GoesWith("schedule", "cosine", "plateau")] = 0.0
    """Rate at which schedule `cosine` ends, and below which `plateau` does not go."""

    def check(self) -> None:
        super().check()
        if self.schedule == "step" and not self.milestones:
            raise BadInput("schedule='step' without milestones: give the epochs at which to divide the rate")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise BadInput(f"{shown(self, 'milestones')}: expected rising epochs")


@dataclass(frozen=True, kw_only=True)
class LossConfig(Config):
    """The loss, and classes of unequal size."""

    label_smoothing: Annotated[float, Range(least=0, below=1)] = 0.0
    """Share of each training label that is spread over all classes."""
    class_weights: Annotated[
        Literal["balanced"] | tuple[float, ...] | None, Range(least=0), NotWith("balanced_sampler")
    ] = None
    """Weight the training loss by class: `balanced`: in inverse proportion to the number of images; or one
    factor per class, in the order of the class names."""
    balanced_sampler: bool = False
    """Draw training images of all classes equally often. An epoch has as many steps: some images of large
    classes are left out, and those of small classes repeat."""


@dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """Where and how the run works, and when it stops."""

    monitor: Monitor = "top1"
    """What makes an epoch the best: a metric of the validation images (ties are broken by the loss), or their
    loss alone. With more than two classes, roc_auc is the mean over the classes, each against the rest."""
    early_stop: Annotated[int | None, Range(least=1), Free()] = None
    """Stop when the best epoch is this many epochs back. Evaluation, prediction and export use the best."""
    seed: Annotated[int, Range(least=0, most=MOST_SEED)] = 0
    """Seed of the initial weights, the order of the images and the augmentation."""
    out: Annotated[Path | None, Free()] = None
    """Run directory: configuration, history, checkpoints, curves (default: named after data, model and time,
    in checkpoints/)."""
    resume: Annotated[bool, Free(), NotWith("overwrite")] = False
    """Go on where the run in `out` stopped; settings that are not given are the run's own. If nothing was
    saved there yet, start from the beginning."""
    overwrite: Annotated[bool, Free()] = False
    """Replace the run in `out`."""
    save_minutes: Annotated[float, Range(above=0), Free()] = 10.0
    """Save this often within an epoch too, so that long epochs survive a dead machine."""
    on_save_error: Annotated[Literal["stop", "continue"], Free()] = "stop"
    """If a checkpoint cannot be written, as on a full disk: stop; or continue, and try again at the next."""
    on_nan: Annotated[Literal["stop", "skip"], Free()] = "stop"
    """If the loss or the gradient of a step is not finite: stop; or skip the step, at most 10 times in a
    row."""
    profile: Annotated[int | None, Range(least=1), Free()] = None
    """Trace so many steps, from the second one on, by jax.profiler: to `profile/` in the run directory."""
    tensorboard: Annotated[bool, Free()] = False
    """Write TensorBoard's event files to `tensorboard/` in the run directory."""
    wandb: Annotated[bool, Free()] = False
    """Log settings and metrics to Weights & Biases, as WANDB_MODE and its other variables say."""
    mlflow: Annotated[bool, Free()] = False
    """Log settings and metrics to MLflow, where MLFLOW_TRACKING_URI says."""
    devices: Annotated[int | None, Range(least=1), Free()] = None
    """Use only this many devices of each host (default: all)."""
    parallel: Annotated[MapBy, Free()] = "pmap"
    """What maps the step over devices: JAX's pmap, or shard_map in its place, with the same numbers."""
    distributed: Annotated[bool, Free()] = False
    """One process of many: join them by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or by
    what the cluster (SLURM, Open MPI, Kubernetes, TPU pod) says."""
    coordinator: Annotated[str | None, Free(), GoesWith("distributed")] = None
    """HOST:PORT of the first process, where nothing else says it."""
    processes: Annotated[int | None, Range(least=1), Free(), GoesWith("coordinator")] = None
    """How many processes there are."""
    process_id: Annotated[int | None, Range(least=0, below="processes"), Free(), GoesWith("coordinator")] = (
        None
    )
    """Which of the processes this one is, from 0."""
    peer_timeout: Annotated[float, Range(above=0), Free()] = 300.0
    """With several processes: end with exit code 4 if one does not come within so many seconds, or gives no
    sign of life for so long."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(
    DataConfig,
    ImageConfig,
    AugmentConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    LossConfig,
    RunConfig,
):
    """A training run, from data to run directory. Every field is a flag of `resnext-jax train`.

    Example:
        >>> config = TrainConfig(data="demo", model="resnet18", epochs=5, optimizer="adam", lr=1e-3)
        >>> config.check()
        >>> config.batch_size, config.schedule
        (32, 'constant')
    """

    def check(self) -> None:
        """Check the fields, before anything is read; `fit` does it.

        Raises:
            BadInput: a field of the wrong type or out of range, or fields that contradict each other; the
                message names them.
        """
        super().check()
        if self.resume and self.out is None:
            raise BadInput("resume=True without out: expected the directory of the run to go on with")
        if self.distributed and self.out is None:
            raise BadInput("distributed=True without out: expected a directory that all processes share")
        if self.coordinator is not None:
            if not re.fullmatch(r".+:\d+", self.coordinator):
                raise BadInput(f"{shown(self, 'coordinator')}: expected HOST:PORT of the first process")
            if self.processes is None or self.process_id is None:
                raise BadInput(f"{shown(self, 'coordinator')}: give processes=N and process_id=I, too")
        if self.warmup >= self.epochs:
            raise BadInput(
                f"{shown(self, 'lr_base_size')}: the run would warm up for {self.warmup} of epochs="
                f"{self.epochs}; give warmup_epochs"
            )
        if self.min_lr >= self.peak_lr:
            raise BadInput(
                f"{shown(self, 'min_lr')}: expected less than the learning rate, lr={self.peak_lr}"
            )
        if self.pad_crop >= self.image_size:
            raise BadInput(f"{shown(self, 'pad_crop')}: expected less than image_size={self.image_size}")
        if self.class_weights is not None and (self.mixup or self.cutmix):
            raise BadInput(
                f"{shown(self, 'class_weights')} with mixup={self.mixup} and cutmix={self.cutmix}: a mixed "
                "label belongs to no single class; use balanced_sampler"
            )
        if self.freeze:
            trained = trainable_mask(split_model(abstract_model(self.model))[1], self.freeze)
            if self.head_lr is not None and not any(trained["fc"].values()):
                raise BadInput(f"{shown(self, 'head_lr')} with a frozen head: leave fc out of freeze")
            layers = [trained[name] for name in trained if name != "fc"]
            if self.layer_decay != 1 and not any(jax.tree.leaves(layers)):
                raise BadInput(
                    f"{shown(self, 'layer_decay')} with only the head trained: freeze fewer layers"
                )

    @property
    def warmup(self) -> int:
        """Epochs of warm-up: `warmup_epochs`, or what goes with `lr_base_size`.

        5 are those of Goyal et al. 2017 (arXiv 1706.02677); above 8,192 images they are those of You et al.
        2020 (arXiv 1904.00962), 20 at 32,768.
        """
        if self.warmup_epochs or self.lr_base_size is None or self.schedule == "onecycle":
            return self.warmup_epochs
        return max(5, round(5 * self.batch_size / 8192))

    @property
    def directory(self) -> Path:
        """The run directory, once `resolved` has named it."""
        assert self.out is not None
        return self.out

    def resolved(self) -> Self:
        """The same run with its learning rate and its directory named, if it leaves them open."""
        return replace(self, lr=self.lr or self.peak_lr, out=self.out or self._own_directory())

    def _own_directory(self) -> Path:
        data = self.data.removeprefix("tfds:")
        data = data.replace("/", "-") if data != self.data else Path(data).resolve().stem
        name = f"{data}_{self.model}_{time.strftime('%Y%m%d-%H%M%S')}"
        wanted = path = RUNS / re.sub(r"[^\w.-]+", "-", name)
        count = 1
        while path.exists():
            count += 1
            path = wanted.with_name(f"{wanted.name}_{count}")
        return path


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
    try:
        return TrainConfig.from_dict(config)
    except BadInput as error:
        raise BadInput(f"{directory / CONFIG}: {error}") from None
