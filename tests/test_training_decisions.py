"""What a run decides from its history: the best epoch, when to reduce the rate, when to stop."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnext_jax.runs import best_row
from resnext_jax.training.config import TrainConfig
from resnext_jax.training.decisions import lr_scale, stops_early

losses_strategy = st.lists(st.floats(0.1, 2.0) | st.just(math.nan), min_size=1, max_size=40)


def rows(losses, top1=None):
    top1 = [0.5] * len(losses) if top1 is None else top1
    pairs = zip(losses, top1, strict=True)
    return [{"epoch": i, "step": i, "val_loss": a, "val_top1": b} for i, (a, b) in enumerate(pairs, start=1)]


@given(losses_strategy, st.integers(1, 4), st.sampled_from([0.0, 0.05, 0.3]))
def test_plateau_is_torchs(losses, patience, min_delta):
    torch = pytest.importorskip("torch")
    config = TrainConfig(
        lr=1.0,
        schedule="plateau",
        plateau_factor=0.5,
        plateau_patience=patience,
        plateau_min_delta=min_delta,
        min_lr=0.01,
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    # torch waits for one epoch more than Keras and we do.
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        factor=0.5,
        patience=patience - 1,
        threshold=min_delta,
        threshold_mode="abs",
        min_lr=0.01,
    )
    for epoch, loss in enumerate(losses, start=1):
        theirs.step(loss)
        assert lr_scale(config, rows(losses[:epoch])) == pytest.approx(optimizer.param_groups[0]["lr"])


def test_plateau_leaves_the_warm_up_out():
    config = TrainConfig(schedule="plateau", plateau_patience=2, warmup_epochs=3, epochs=9)
    rising = rows([1.0, 2.0, 3.0, 2.0, 2.5, 2.5])
    assert [lr_scale(config, rising[:n]) for n in range(7)] == [1, 1, 1, 1, 1, 1, 0.1]
    assert lr_scale(TrainConfig(), rising) == 1


def test_the_best_epoch_is_by_what_is_monitored():
    history = rows([0.9, 0.3, 0.5, math.nan, 0.5], [0.8, 0.7, 0.8, 0.9, 0.8])
    # Highest top-1; ties by the lowest loss, then the first; NaN is behind all.
    assert best_row(history)["epoch"] == 3
    assert best_row(history, "loss")["epoch"] == 2


@given(losses_strategy, st.integers(1, 5))
def test_early_stop_waits_since_the_lowest_loss(losses, patience):
    config = TrainConfig(early_stop=patience, monitor="loss")
    history = rows(losses)
    finite = np.where(np.isnan(losses), np.inf, losses)
    assert stops_early(config, history) == (len(losses) - 1 - int(np.argmin(finite)) >= patience)
    assert not stops_early(TrainConfig(), history)
    assert not stops_early(config, [])
