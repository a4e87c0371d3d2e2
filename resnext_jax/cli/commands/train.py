"""`resnext-jax train`."""

from dataclasses import dataclass

from resnext_jax.training import FitResult, TrainConfig


@dataclass(frozen=True)
class Train(TrainConfig):
    """Train a classifier on images."""

    def __call__(self) -> None:
        train(self)


def train(config: TrainConfig) -> FitResult:
    """Train with progress on standard output, curves in the run directory, and a closing line.

    Args:
        config: the run.
    """
    import jax

    from resnext_jax import reports
    from resnext_jax.reports import curves

    result = reports.fit(config, writers=[curves.write_curves])
    summary = result.summary
    if jax.process_index() == 0:
        print(
            f"best epoch {summary['best_epoch']}: validation top-1 {100 * summary['best_val_top1']:.2f} %, "
            f"loss {summary['best_val_loss']:.4f}; {summary['seconds']:.0f} s in all; the run is in "
            f"{result.directory}"
        )
    return result
