"""Exact evaluation: every image once, whatever the batch size and the number of devices."""

from collections.abc import Iterator

import jax
import numpy as np
from flax import nnx

from resnext_jax.console import Update
from resnext_jax.data import Images, Normalize, eval_batches, prefetch_to_device
from resnext_jax.devices import Batch, DataParallel
from resnext_jax.inference.step import EvalStep, make_eval_step
from resnext_jax.models import Tree


class Evaluator:
    """Predictions of a model for images, computed by all devices.

    Args:
        graphdef: structure of the model, in evaluation form.
        normalize: how the network wants its images normalised.
        parallel: devices.
    """

    def __init__(self, graphdef: nnx.GraphDef, normalize: Normalize, parallel: DataParallel):
        self._parallel = parallel
        self._step = make_eval_step(graphdef, normalize)
        self._compiled: dict[tuple[int, ...], EvalStep] = {}  # by the shape of the images

    def __call__(
        self, model: Tree, images: Images, batch_size: int, update: Update | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities of all images that can be read, in their order, in every process.

        Args:
            model: `params` and `batch_stats`, replicated on the devices.
            images: the split, N images of K classes.
            batch_size: images in a step, over all devices.
            update: progress: steps done.

        Returns:
            float32 [M, K]; and which images they are of, int [M]: all N unless unreadable ones were skipped.
        """
        results, masks = [], []
        for done, (result, batch) in enumerate(self.stream(model, images, batch_size), start=1):
            results.append(result)
            masks.append(batch["mask"])
            if update:
                update(done, "")
        # The last batch was filled up.
        good = self._parallel.gather(masks)[: len(images)]
        return self._parallel.gather(results)[: len(images)][good], np.flatnonzero(good)

    def stream(self, model: Tree, images: Images, batch_size: int) -> Iterator[tuple[jax.Array, Batch]]:
        """Log-probabilities of each batch, on the devices and perhaps still being computed, and the batch.

        Args:
            model: `params` and `batch_stats`, replicated on the devices.
            images: N images.
            batch_size: images in a step, over all devices.

        Yields:
            float32 [D, B, K]; and the batch on the devices: `image` uint8 [D, B, S, S, 3], `mask` bool
            [D, B], False behind the last image and for images that cannot be read.
        """
        batches = eval_batches(
            images,
            batch_size=batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            local_devices=self._parallel.local_count,
        )
        for batch in prefetch_to_device(batches, self._parallel.split):
            shape = batch["image"].shape
            if shape not in self._compiled:
                self._compiled[shape] = self._parallel.compile_eval_step(self._step, model, batch)
            yield self._compiled[shape](model, batch), batch
