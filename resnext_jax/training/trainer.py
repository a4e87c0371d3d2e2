"""The steps of an epoch: compiled, timed, and watched for numbers that are not finite."""

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnext_jax.console import Console, format_metrics
from resnext_jax.data import WaitTimer, prefetch_to_device, train_batches
from resnext_jax.devices.parallel import DataParallel
from resnext_jax.inference.metrics import Sums, means, zero_sums
from resnext_jax.training.setup import Setup

# Steps that the host may be ahead of the devices: enough to keep them busy, few enough to bound memory.
STEPS_AHEAD = 2


class Trainer:
    """Makes steps, from the run's first or from where `restore` puts it.

    Args:
        setup: the run.
        parallel: devices.
        console: where progress is shown.

    Attributes:
        state: after the last step, replicated on the devices.
        step: steps made.
        sums: metric sums of the epoch under way, on the host, whenever a checkpoint may be made; None before
            its first step.
        epoch_seconds: time spent on the steps of the epoch under way.
        compile_seconds, step_seconds, wait_seconds: of this process: time to compile the step, to make steps,
            and of that, to wait for data.
    """

    def __init__(self, setup: Setup, parallel: DataParallel, console: Console):
        self.setup, self.parallel, self.console = setup, parallel, console
        self.state = setup.state
        # Kept on the host: reading the step off the state would wait for the devices.
        self.step = 0
        self.sums: dict[str, float] | None = None
        self.epoch_seconds = self.compile_seconds = self.step_seconds = self.wait_seconds = 0.0

    @property
    def epochs_done(self) -> int:
        """Epochs whose steps are all made."""
        return self.step // self.setup.steps_per_epoch

    def start(self) -> None:
        """Begin to read batches, from the step that is next."""
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
        self._batches = WaitTimer(prefetch_to_device(batches, self.parallel.split))

    def train_epoch(self, between: Callable[[Callable[[], None]], None]) -> None:
        """Make the steps that the epoch still wants.

        Args:
            between: called after every step but the last, with a function to be called before a checkpoint is
                made.

        Raises:
            FloatingPointError: a loss, parameter or batch statistic stopped being finite.
        """
        sums = zero_sums(len(self.setup.spec.classes))
        if self.sums is not None:
            sums = {name: jnp.float32(self.sums[name]) for name in sums}
        sums = self.parallel.replicate(sums)
        steps = self.setup.steps_per_epoch
        ahead: deque[Sums] = deque()
        waited = self._batches.seconds
        mark = time.perf_counter()
        epochs = self.setup.config.epochs
        with self.console.task(f"epoch {self.epochs_done + 1}/{epochs}", steps) as update:
            for done in range(self.step % steps + 1, steps + 1):
                batch = next(self._batches)
                if not self.compile_seconds:
                    self._compile(sums, batch)
                    waited, mark = self._batches.seconds, time.perf_counter()
                self.state, sums = self._train_step(self.state, sums, batch)
                self.step += 1
                ahead.append(sums)
                known = self._read(ahead.popleft()) if len(ahead) > STEPS_AHEAD else None
                if done == steps:
                    known = self._settle(sums)
                now = time.perf_counter()
                self.epoch_seconds += now - mark
                self.step_seconds += now - mark
                mark = now
                if known:
                    speed = known["count"] / self.epoch_seconds
                    update(done, f"{format_metrics(means(known))}  {speed:.0f} images/s")
                if done < steps:
                    between(lambda sums=sums: self._settle(sums))
        self.wait_seconds += self._batches.seconds - waited

    def next_epoch(self, lr_scale: float) -> None:
        """Forget the epoch that ended; go on with this part of the schedule's learning rate."""
        self.sums, self.epoch_seconds = None, 0.0
        self.state = self.state._replace(lr_scale=self.parallel.replicate(jnp.float32(lr_scale)))

    def _compile(self, sums: Sums, batch: Any) -> None:
        """Compile ahead of the first call, so that the time it takes is known."""
        start = time.perf_counter()
        self._train_step = self.parallel.compile_train_step(self.setup.train_step, self.state, sums, batch)
        self.compile_seconds = time.perf_counter() - start
        self.console.line(f"compiled the training step in {self.compile_seconds:.1f} s")

    def _settle(self, sums: Sums) -> dict[str, float]:
        """Wait for the steps made, and make sure of their outcome."""
        self.sums = self._read(sums)
        # A loss can be finite behind parameters that are not: ReLU may turn NaN into 0.
        leaves = jax.tree.leaves((self.state.params, self.state.batch_stats))
        if not all(np.isfinite(leaf.addressable_data(0)).all() for leaf in leaves):
            self._diverged("a parameter or batch statistic is not finite")
        return self.sums

    def _read(self, sums: Sums) -> dict[str, float]:
        """The sums on the host, once they are known."""
        host = {name: float(value) for name, value in jax.device_get(sums).items()}
        if not math.isfinite(host["loss"]):
            self._diverged(f"the training loss is {host['loss']}")
        return host

    def _diverged(self, what: str) -> None:
        config = self.setup.config
        raise FloatingPointError(
            f"{what} by step {self.step} of epoch {-(-self.step // self.setup.steps_per_epoch)}; "
            f"try a lower lr than {config.lr}; checkpoints from before are kept in {config.out}"
        )
