"""The command `resnext-jax`: parses, calls, prints."""

import dataclasses
import io
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Literal

import tyro
from jax.errors import JaxRuntimeError
from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, subcommand

from resnext_jax import inference, models, ops, runs, training, weights
from resnext_jax.benchmark import BenchmarkOptions, format_benchmark, run_benchmark
from resnext_jax.cli.headings import HEADINGS
from resnext_jax.console import Console
from resnext_jax.data import Preprocessing, open_dataset
from resnext_jax.data.augment import AugmentConfig
from resnext_jax.errors import BadInput
from resnext_jax.training import TrainConfig

# matplotlib and TFDS are imported by the commands that use them: they take a while.

Checkpoint = Literal["best", "latest"]
Split = Literal["train", "val", "test", "all"]

BAD_INPUT = 2


def train(config: TrainConfig) -> None:
    """Train a classifier on images."""
    from resnext_jax.reports.curves import write_curves

    writers: list[training.Writer] = [write_curves]
    if config.tensorboard:
        from resnext_jax.reports.tensorboard import TensorBoard

        writers.append(TensorBoard())
    result = training.fit(config, writers=writers)
    summary = result.summary
    print(
        f"best epoch {summary['best_epoch']}: validation top-1 {100 * summary['best_val_top1']:.2f} %, loss "
        f"{summary['best_val_loss']:.4f}; {summary['seconds']:.0f} s in all; the run is in {result.directory}"
    )


@dataclass(frozen=True)
class Evaluate:
    """Metrics of a trained run on a split of its data, or on other data."""

    run: Positional[Path]
    """Run directory."""
    data: str | None = None
    """Other data than the run's, of the same classes."""
    data_dir: Path | None = None
    """Where prepared TFDS data sets lie, if not where they lay in training."""
    split: Split | None = None
    """Images to evaluate on (default: val; all of them where other data are given)."""
    checkpoint: Checkpoint = "best"
    """The best by validation accuracy, or the latest."""
    positive: str | None = None
    """Of two classes, the one to be detected: sensitivity is its recall, specificity the other's (default:
    the second)."""
    confusion: Path | None = None
    """Draw the confusion matrix to this picture."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> None:
        from resnext_jax.reports import confusion, grid, tables

        if self.confusion:
            grid.check_format(self.confusion)
        predictor = inference.load_run(self.run, self.checkpoint)
        split = self.split or ("all" if self.data else "val")
        other = {name: getattr(self, name) for name in ("data", "data_dir")}
        changes = {name: value for name, value in other.items() if value is not None}
        metrics = predictor.evaluate(split, positive=self.positive, quiet=self.json, **changes)
        if self.confusion:
            confusion.draw_confusion(metrics["confusion"], predictor.classes, self.confusion)
        if self.json:
            print(runs.to_json({"run": str(self.run), "step": predictor.step, "split": split} | metrics))
        else:
            print(f"{self.run} after {predictor.step} steps, {metrics['images']} images of split {split}")
            tables.print_metrics(metrics)


@dataclass(frozen=True)
class Predict:
    """Classify images by a trained run; needs nothing but the run directory."""

    run: Positional[Path]
    """Run directory."""
    images: Positional[tuple[Path, ...]]
    """Image files, and folders whose images are taken at any depth."""
    csv: Path | None = None
    """Write the probabilities of all classes to this file."""
    grid: Path | None = None
    """Draw the images with their predicted classes to this picture."""
    top_k: int = 1
    """Classes to show for each image."""
    batch_size: int = 32
    """Images at a time."""
    skip_bad_images: bool = False
    """Go on without unreadable images, naming each."""
    checkpoint: Checkpoint = "best"
    """The best by validation accuracy, or the latest."""

    def __call__(self) -> None:
        from resnext_jax.reports import grid, tables

        _at_least_one(top_k=self.top_k, batch_size=self.batch_size, images=len(self.images))
        if self.grid:
            grid.check_format(self.grid)
        predictor = inference.load_run(self.run, self.checkpoint)
        with Console().task("reading images", 0) as update:
            predictions = predictor.predict(
                self.images, batch_size=self.batch_size, skip_bad_images=self.skip_bad_images, update=update
            )
        tables.print_predictions(predictions, self.top_k)
        if self.csv:
            tables.write_predictions(predictions, self.csv)
        if self.grid:
            grid.draw_predictions(predictions, self.grid)


@dataclass(frozen=True)
class Summary:
    """Output shape, parameters and multiply-adds of every stage of a model."""

    model: Positional[str]
    """A name of `resnext-jax models`."""
    image_size: int = 224
    """Side of the image in pixels."""
    num_classes: int = 1000
    """Outputs of the head."""
    freeze: tuple[str, ...] = ()
    """Parts counted as not trainable: beginnings of parameter names, or `backbone`."""

    def __call__(self) -> None:
        from resnext_jax.reports import tables

        _at_least_one(image_size=self.image_size, num_classes=self.num_classes)
        model = models.abstract_model(self.model, num_classes=self.num_classes)
        tables.print_summary(models.stage_costs(model, self.image_size, self.freeze))


@dataclass(frozen=True)
class Models:
    """List the models."""

    def __call__(self) -> None:
        from resnext_jax.reports import tables

        tables.print_models()


@dataclass(frozen=True)
class Convert:
    """Convert weights between torch files, safetensors files and run directories, in any direction."""

    source: Positional[str]
    """A .safetensors or .pth file, a run directory, or torchvision's name of weights (with --model)."""
    destination: Positional[Path]
    """A .safetensors or .pth file, or a new run directory: a path without a suffix."""
    model: str | None = None
    """A name of `resnext-jax models`, where names and shapes do not tell."""
    classes: Path | None = None
    """For a run directory: a file with the name of a class on each line, in the order of the outputs."""
    image_size: int | None = None
    """For a run directory: side of the image in pixels (default: what the weights say, else 224)."""

    def __call__(self) -> None:
        if self.destination.suffix:
            if self.classes or self.image_size:
                raise BadInput(f"{self.destination}: --classes and --image-size go with a run directory")
            model = weights.convert(self.source, self.destination, model=self.model)
            print(f"{self.destination}: weights of {model}")
        else:
            options = {"model": self.model, "classes": self.classes, "image_size": self.image_size}
            spec = inference.convert_to_run(self.source, self.destination, **options)
            print(
                f"{self.destination}: {spec.name} for {len(spec.classes)} classes of images of "
                f"{spec.preprocessing.image_size} px"
            )


@dataclass(frozen=True)
class Bench(BenchmarkOptions):
    """Time a model's steps or single convolutions, beside PyTorch and plain Flax."""

    model: Positional[str] = BenchmarkOptions.model
    """A name of `resnext-jax models`."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> None:
        result = run_benchmark(self)
        print(json.dumps(result) if self.json else format_benchmark(result))


@dataclass(frozen=True)
class Prepare:
    """Prepare a TFDS data set, so that `--data tfds:NAME --data-dir DIR` finds it."""

    name: Positional[str]
    """tfds:cifar10, tfds:monkeypox/original or tfds:monkeypox/augmented."""
    data_dir: Path
    """Folder for prepared data sets."""
    archive: Path | None = None
    """The data set's archive or folder, where it was fetched by hand."""

    def __call__(self) -> None:
        from resnext_jax.data import prepare_tfds

        print(prepare_tfds(self.name, self.data_dir, self.archive))


@dataclass(frozen=True, kw_only=True)
class Show(AugmentConfig):
    """Draw some images of a data set with their classes, and what augmentation makes of them."""

    data: Positional[str]
    """`demo`, a folder, or `tfds:NAME[/CONFIG]`."""
    out: Path
    """Picture to write."""
    data_dir: Path | None = None
    """Where prepared TFDS data sets lie."""
    split: Split = "train"
    """Images to choose from."""
    image_size: int = 128
    """Side of each image in pixels."""
    count: int = 24
    """Images to draw."""
    seed: int = 0
    """Another seed chooses other images."""
    augment: bool = False
    """Draw beside each image what training with the same flags would see of it."""

    def __call__(self) -> None:
        from resnext_jax.reports import grid

        grid.check_format(self.out)
        _at_least_one(image_size=self.image_size, count=self.count)
        self.check()
        asked = [f.name for f in dataclasses.fields(AugmentConfig) if getattr(self, f.name) != f.default]
        if asked and not self.augment:
            raise BadInput(f"{', '.join(asked)}: goes with --augment")
        source = open_dataset(self.data, data_dir=self.data_dir).split(self.split)
        preprocessing = Preprocessing(self.image_size)
        if self.augment:
            grid.draw_augmented(source, preprocessing, self, self.count, self.seed, self.out)
        else:
            grid.draw_samples(source, preprocessing, self.count, self.seed, self.out)


@dataclass(frozen=True)
class Data:
    """Prepare data sets, and look at them."""

    action: Annotated[Prepare, subcommand("prepare")] | Annotated[Show, subcommand("show")]

    def __call__(self) -> None:
        self.action()


COMMANDS = {
    "train": TrainConfig,
    "evaluate": Evaluate,
    "predict": Predict,
    "convert": Convert,
    "summary": Summary,
    "bench": Bench,
    "models": Models,
    "data": Data,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; ends the process with 0, 2 for bad input, or 128 + the signal."""
    with clean_exit():
        command = parse(list(sys.argv[1:] if arguments is None else arguments))
        train(command) if isinstance(command, TrainConfig) else command()


@contextmanager
def clean_exit() -> Iterator[None]:
    """Logs as plain lines, freed memory kept, and one line and an exit code for all that may go wrong inside:
    2 for bad input, 128 + the signal."""
    _log_to_stderr()
    if os.environ.get("RESNEXT_JAX_KEEP_FREED_MEMORY") != "0":
        ops.keep_freed_memory()
    try:
        yield
    except training.Interrupted as stop:
        _fail(f"interrupted: {stop}", 128 + stop.signum)
    except KeyboardInterrupt:
        _fail("interrupted", 128 + signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
    except (BadInput, OSError, FloatingPointError) as error:
        _fail(f"error: {error}", BAD_INPUT)
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        _fail(
            "error: the device has too little memory for this; use a smaller batch or image size", BAD_INPUT
        )


def parse(arguments: Sequence[str]) -> object:
    """The command that the arguments ask for. A resumed run's own settings are the defaults of its flags."""
    with _errors_in_one_line():
        command = tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="resnext-jax",
            args=arguments,
            config=(OmitSubcommandPrefixes, OmitArgPrefixes),
            registry=HEADINGS,
        )
    if isinstance(command, TrainConfig) and command.resume:
        return _parse_over(_saved(command), arguments[1:], "resnext-jax train")
    return command


def parse_train(
    arguments: Sequence[str], default: TrainConfig, *, prog: str, description: str
) -> TrainConfig:
    """A run's configuration from its flags; of a resumed run, its own settings are their defaults.

    Args:
        arguments: the flags.
        default: what they change.
        prog: name of the command, for `--help`.
        description: beginning of what `--help` prints.
    """
    config = _parse_over(default, arguments, prog, description)
    return _parse_over(_saved(config), arguments, prog, description) if config.resume else config


def _parse_over(
    default: TrainConfig, arguments: Sequence[str], prog: str, description: str | None = None
) -> TrainConfig:
    with _errors_in_one_line():
        return tyro.cli(
            TrainConfig,
            prog=prog,
            description=description,
            args=arguments,
            default=default,
            config=(OmitArgPrefixes,),
            registry=HEADINGS,
        )


def _saved(config: TrainConfig) -> TrainConfig:
    """What a run that is to be resumed was configured as."""
    saved = training.saved_config(config.out)
    return dataclasses.replace(saved, resume=True, overwrite=False)


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    """Raise what tyro cannot parse as a ValueError: the beginning of the box that it would print."""
    box = io.StringIO()
    try:
        with redirect_stderr(box):
            yield
    except SystemExit as stop:
        if not stop.code:
            raise
        lines = [line.strip("│ ") for line in box.getvalue().splitlines()[1:]]
        said = list(takewhile(lambda line: line.strip("─"), lines))
        if "Perhaps you meant:" in lines:
            said.append(f"; did you mean {lines[lines.index('Perhaps you meant:') + 1]}?")
        raise BadInput(f"{' '.join(said)} (--help explains)".replace(" ;", ";")) from None


def _log_to_stderr() -> None:
    """Show what the package notes, as plain lines."""
    log = logging.getLogger("resnext_jax")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
    # These report their inner workings; what concerns the user is raised or printed.
    for name in ("absl", "jax", "orbax", "matplotlib"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _at_least_one(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise BadInput(f"{name}={value}: expected at least 1")


def _fail(message: str, code: int) -> None:
    # RESNEXT_JAX_TRACEBACK=1 shows where an error comes from.
    if os.environ.get("RESNEXT_JAX_TRACEBACK"):
        raise
    print(" ".join(message.split()), file=sys.stderr)
    raise SystemExit(code)
