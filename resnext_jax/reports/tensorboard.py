"""TensorBoard's event files: metrics, learning rate, confusion matrix, images as training sees them."""

import numpy as np

from resnext_jax.errors import MissingPackage
from resnext_jax.inference import confusion_matrix
from resnext_jax.reports.confusion import render_confusion
from resnext_jax.runs import Row
from resnext_jax.training import Progress


class TensorBoard:
    """A writer for `fit`: event files in `tensorboard/` in the run directory, by epoch.

    The scalars are those of the history, named as `loss/train`, `loss/val` and `lr`.

    Raises:
        MissingPackage: tensorboardX is not installed.
    """

    def __init__(self) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise MissingPackage(
                f"TensorBoard's files need tensorboardX ({error}): pip install 'resnext-jax[tensorboard]'"
            ) from error
        self._open = SummaryWriter
        self._events: SummaryWriter | None = None

    def __call__(self, progress: Progress) -> None:
        epoch, rows = int(progress.history[-1]["epoch"]), progress.history[-1:]
        if self._events is None:
            directory = progress.directory / "tensorboard"
            if not directory.exists():
                rows = progress.history  # also of a run that began without these files
            # A process that was killed may have written this epoch already: only the last one counts.
            self._events = self._open(str(directory), purge_step=epoch)
            self._events.add_images("images/training", progress.samples(), epoch, dataformats="NHWC")
        for row in rows:
            for tag, value in _scalars(row).items():
                self._events.add_scalar(tag, value, int(row["epoch"]))
        classes = progress.spec.classes
        predicted = progress.log_probabilities.argmax(axis=1)
        confusion = confusion_matrix(progress.labels, predicted, len(classes))
        picture = render_confusion(confusion, classes)
        self._events.add_image("confusion/val", picture, epoch, dataformats="HWC")
        self._events.flush()


def _scalars(row: Row) -> dict[str, float]:
    """The finite numbers of an epoch, by TensorBoard's tag."""
    scalars = {}
    for name, value in row.items():
        split, _, metric = name.partition("_")
        if name != "epoch" and np.isfinite(value):
            scalars[f"{metric}/{split}" if split in ("train", "val") else name] = value
    return scalars
