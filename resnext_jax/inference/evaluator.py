"""Exact evaluation: every image once, whatever the batch size and the number of devices."""

import jax
import numpy as np
from flax import nnx

from resnext_jax.console import Update
from resnext_jax.data import Images, Normalize, eval_batches, prefetch_to_device
from resnext_jax.devices import DataParallel
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
    ) -> np.ndarray:
        """Log-probabilities of all images, in their order, in every process.

        Args:
            model: `params` and `batch_stats`, replicated on the devices.
            images: the split, N images of K classes.
            batch_size: images in a step, over all devices.
            update: progress: steps done.

        Returns:
            float32 [N, K].
        """
        batches = eval_batches(
            images,
            batch_size=batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            local_devices=self._parallel.local_count,
        )
        results = []
        for done, batch in enumerate(prefetch_to_device(batches, self._parallel.split), start=1):
            shape = batch["image"].shape
            if shape not in self._compiled:
                self._compiled[shape] = self._parallel.compile_eval_step(self._step, model, batch)
            results.append(self._compiled[shape](model, batch))
            if update:
                update(done, "")
        # The last batch was filled up.
        return self._parallel.gather(results)[: len(images)]
