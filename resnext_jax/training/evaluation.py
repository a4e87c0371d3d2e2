"""Exact evaluation: every image once, whatever the batch size and the number of devices."""

import jax
from flax import nnx

from resnext_jax.data import Images, Preprocessing, eval_batches, prefetch_to_device
from resnext_jax.training.console import Update
from resnext_jax.training.metrics import means, zero_sums
from resnext_jax.training.parallel import DataParallel
from resnext_jax.training.state import TrainState
from resnext_jax.training.step import EvalStep, Normalize, make_eval_step


class Evaluator:
    """Metrics of a model over images.

    Args:
        graphdef: structure of the model, in evaluation form.
        preprocessing: how the network wants its images normalised.
        parallel: devices.
    """

    def __init__(self, graphdef: nnx.GraphDef, preprocessing: Preprocessing, parallel: DataParallel):
        normalize = Normalize(preprocessing.mean, preprocessing.std)
        self._parallel = parallel
        self._step = make_eval_step(graphdef, normalize)
        self._compiled: dict[tuple[int, ...], EvalStep] = {}  # by the shape of the images

    def __call__(
        self, state: TrainState, images: Images, batch_size: int, update: Update | None = None
    ) -> dict[str, float]:
        """Mean loss, top-1 and, for more than five classes, top-5 over all images.

        Args:
            state: replicated on the devices.
            images: the split.
            batch_size: images in a step, over all devices.
            update: progress: steps done.
        """
        batches = eval_batches(
            images,
            batch_size=batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            local_devices=self._parallel.local_count,
        )
        sums = self._parallel.replicate(zero_sums(len(images.classes)))
        for done, batch in enumerate(prefetch_to_device(batches, self._parallel.split), start=1):
            shape = batch["image"].shape
            if shape not in self._compiled:
                self._compiled[shape] = self._parallel.compile_eval_step(self._step, state, sums, batch)
            sums = self._compiled[shape](state, sums, batch)
            if update:
                update(done, "")
        return means(jax.device_get(sums))
