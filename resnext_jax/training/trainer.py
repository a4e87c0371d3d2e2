"""The steps of a run: compiled, timed, watched for numbers that are not finite, saved and restored."""

import math
import time
from collections import deque
from collections.abc import Iterator
from itertools import chain, pairwise
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from resnext_jax.console import format_metrics
from resnext_jax.data import WaitTimer, prefetch_to_device, train_batches
from resnext_jax.devices import DataParallel
from resnext_jax.errors import BadInput
from resnext_jax.inference import Sums, means
from resnext_jax.runs import Checkpoints, Row
from resnext_jax.training.setup import Setup
from resnext_jax.training.state import TrainState
from resnext_jax.training.step import step_sums

# Steps that the host may be ahead of the devices: enough to keep them busy, few enough to bound memory.
STEPS_AHEAD = 2

MOST_SKIPPED = 10  # steps in a row

PARTS = ("data", "dispatch", "device")
"""What a step's time is spent on: waiting for a batch, handing the step to the devices, waiting for them."""


class Trainer:
    """Makes the steps of a run, and holds all that a checkpoint of it holds.

    Args:
        setup: the run.
        state: its initial state.
        parallel: devices.

    Attributes:
        state: after the last step, replicated on the devices.
        step: steps made.
        history: a row for each epoch that was trained and validated.
        sums: metric sums of the epoch under way, on the host, as far as they are known.
        spent: seconds that the steps of the epoch under way took, by `PARTS`.
        compile_seconds: time that compiling the step took in this process.
        step_seconds: time that the steps of this process took, waiting for data included.
    """

    def __init__(self, setup: Setup, state: TrainState, parallel: DataParallel):
        self.setup, self.parallel = setup, parallel
        self.state = parallel.replicate(state)
        # Kept on the host: reading the step off the state would wait for the devices.
        self.step = 0
        self.history: list[Row] = []
        self.sums: dict[str, float] | None = None
        self.spent = dict.fromkeys(PARTS, 0.0)
        self.compile_seconds = self.step_seconds = 0.0
        self._good_step = self._known_step = 0
        self._waits: WaitTimer = WaitTimer(())

    def restore(self, checkpoints: Checkpoints) -> None:
        """Take up the newest whole checkpoint.

        Raises:
            BadInput: no checkpoint is whole, or it is of a run on other images.
        """
        step, meta, model, rest = checkpoints.resume(self.state.model, self.state.rest)
        images, classes = len(self.setup.train_images), list(self.setup.spec.classes)
        if (meta["train_images"], meta["classes"]) != (images, classes):
            raise BadInput(
                f"out={self.setup.config.out}: the run had {meta['train_images']} training images of "
                f"{', '.join(meta['classes'])}; now there are {images} of {', '.join(classes)}"
            )
        self.state = self.parallel.replicate(self.state.replaced(model, rest))
        self.step, self.history = step, meta["history"]
        self.sums = meta["sums"]
        # An older version noted the whole.
        self.spent |= meta["spent"] if "spent" in meta else {"device": meta["epoch_seconds"]}
        if self.sums is not None:  # an older version did not note the gradient's norm
            self.sums = {"grad_norm": math.nan, "skipped": 0.0} | self.sums
        self._good_step = self._known_step = step

    def save(self, checkpoints: Checkpoints, metrics: dict[str, float] | None = None) -> None:
        """Save a checkpoint, once all steps are made and known to be good.

        Args:
            checkpoints: of the run.
            metrics: those that rank the epoch; None within an epoch.
        """
        self.settle()
        meta = self.setup.spec.to_dict() | {
            "config": self.setup.config.to_dict(),
            "data": self.setup.fingerprint.summary,
            "train_images": len(self.setup.train_images),
            "history": self.history,
            "sums": self.sums,
            "spent": self.spent,
        }
        checkpoints.save(self.step, self.state.model, self.state.rest, meta, metrics)

    def start(self) -> None:
        """Begin to read batches, from the step that is next, and compile the step for them."""
        config = self.setup.config
        batches = train_batches(
            self.setup.train_images,
            batch_size=config.batch_size,
            seed=config.seed,
            start_step=self.step,
            balanced=config.balanced_sampler,
            repeats=config.repeats,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            local_devices=self.parallel.local_count,
        )
        self._waits = WaitTimer(prefetch_to_device(batches, self.parallel.split))
        first = next(self._waits)
        self._batches = chain([first], self._waits)
        self._sums = self._replicated_sums()
        start = time.perf_counter()
        step = self.setup.train_step
        self._train_step = self.parallel.compile_train_step(step, self.state, self._sums, first)
        self.compile_seconds = time.perf_counter() - start
        self._waits.seconds = 0.0

    def epoch(self) -> Iterator[int]:
        """Make the steps that are left of the epoch, and yield after each how many of the epoch are made.

        Raises:
            FloatingPointError: a loss, parameter or batch statistic stopped being finite.
        """
        steps = self.setup.steps_per_epoch
        first = len(self.history) * steps
        self._sums = self._replicated_sums()
        ahead: deque[Sums] = deque()
        while self.step < first + steps:
            start = time.perf_counter()
            batch = next(self._batches)
            called = time.perf_counter()
            with jax.profiler.StepTraceAnnotation("train", step_num=self.step):
                self.state, self._sums = self._train_step(self.state, self._sums, batch)
            returned = time.perf_counter()
            if self._sums["count"].is_ready():  # as on one CPU device, which computes within the call
                returned = called
            self.step += 1
            ahead.append(self._sums)
            if len(ahead) > STEPS_AHEAD:
                self._read(ahead.popleft(), self.step - STEPS_AHEAD)
            if self.step == first + steps:
                self.settle()
            times = (start, called, returned, time.perf_counter())
            for part, (begin, end) in zip(PARTS, pairwise(times), strict=True):
                self.spent[part] += end - begin
            self.step_seconds += times[-1] - start
            yield self.step - first

    def settle(self) -> None:
        """Wait for the steps that are under way, and make sure that what they left is finite."""
        if self.sums is None and self.step == len(self.history) * self.setup.steps_per_epoch:
            return  # between epochs
        self._read(self._sums, self.step)
        # A loss can be finite behind parameters that are not: ReLU may turn NaN into 0.
        leaves = jax.tree.leaves((self.state.params, self.state.batch_stats))
        if not all(np.isfinite(leaf.addressable_data(0)).all() for leaf in leaves):
            self.diverged("a parameter or batch statistic is not finite")

    def diverged(self, what: str, step: int | None = None) -> NoReturn:
        """Give the run up.

        Raises:
            FloatingPointError: names the step, by default the last one, and the last good one.
        """
        step = self.step if step is None else step
        config = self.setup.config
        good = f"; good until step {self._good_step}" if self._good_step else ""
        raise FloatingPointError(
            f"{what} at step {step}, in epoch {-(-step // self.setup.steps_per_epoch)}{good}; try a lower lr "
            f"than {config.lr:g}; checkpoints from before are kept in {config.out}"
        )

    def end_epoch(self, row: Row, lr_scale: float) -> None:
        """Note an epoch that was validated; go on with this part of the schedule's learning rate."""
        self.history.append(row)
        self.sums, self.spent = None, dict.fromkeys(PARTS, 0.0)
        self.state = self.state._replace(lr_scale=self.parallel.replicate(jnp.float32(lr_scale)))

    @property
    def in_epoch(self) -> bool:
        """Whether some of the steps of an epoch are made, and others not."""
        return self.step % self.setup.steps_per_epoch != 0

    @property
    def epoch_seconds(self) -> float:
        """Time that the steps of the epoch under way took."""
        return sum(self.spent.values())

    @property
    def wait_seconds(self) -> float:
        """How much of the time of the steps was spent waiting for data."""
        return self._waits.seconds

    @property
    def note(self) -> str:
        """Metrics of the epoch so far, and speed, as people read them."""
        if not self.sums:
            return ""
        return f"{format_metrics(means(self.sums))}  {self.sums['count'] / self.epoch_seconds:.0f} images/s"

    def _replicated_sums(self) -> Any:
        """The sums that the next step adds to."""
        sums = step_sums(len(self.setup.spec.classes))
        if self.sums is not None:
            sums = {name: jnp.float32(self.sums[name]) for name in sums}
        return self.parallel.replicate(sums)

    def _read(self, sums: Sums, step: int) -> None:
        """Note the sums after a step, once they are known."""
        before = self.sums["skipped"] if self.sums else 0.0
        self.sums = {name: float(value) for name, value in jax.device_get(sums).items()}
        if not math.isfinite(self.sums["loss"]):
            self.diverged(f"the training loss is {self.sums['loss']}", step)
        skipped = int(self.sums["skipped"] - before)
        if skipped < step - self._known_step:
            self._good_step = step - skipped
        self._known_step = step
        if (bad := step - self._good_step) > MOST_SKIPPED:
            self.diverged(f"the loss or the gradient of {bad} steps in a row is not finite", step)
