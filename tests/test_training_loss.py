"""Losses against torch's, class weights, and the balanced order."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnext_jax.data import Preprocessing, load_images, open_dataset, train_batches
from resnext_jax.data.pipeline import balanced_order
from resnext_jax.training.loss import Loss, balanced_weights, class_weights


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_smoothing_is_torchs(smoothing):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(9, 4)).astype(np.float32), rng.integers(0, 4, 9)
    mixed = rng.dirichlet(np.ones(4), 9).astype(np.float32)
    loss = Loss(4, smoothing)
    for targets, theirs in ((loss.targets(labels), torch.tensor(labels)), (mixed, torch.tensor(mixed))):
        expected = torch.nn.functional.cross_entropy(
            torch.tensor(logits), theirs, label_smoothing=smoothing, reduction="none"
        )
        np.testing.assert_allclose(loss(jnp.asarray(logits), targets), expected, rtol=1e-5)


def test_weights_multiply_the_loss_of_their_class():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(9, 3)).astype(np.float32), rng.integers(0, 3, 9)
    weights = (0.5, 2.0, 0.0)
    loss = Loss(3, class_weights=weights)
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(labels), weight=torch.tensor(weights), reduction="none"
    )
    np.testing.assert_allclose(loss(jnp.asarray(logits), loss.targets(labels)), expected, rtol=1e-5)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_balanced_weights_give_every_class_the_same_say(labels):
    labels = np.array(labels)
    weights = np.array(balanced_weights(labels, 5))[labels]
    totals = [weights[labels == label].sum() for label in np.unique(labels)]
    np.testing.assert_allclose(totals, len(labels) / 5)


def test_another_number_of_weights_is_refused():
    with pytest.raises(ValueError, match=r"2 weights; expected one for each of the 3 classes.*: a, b, c"):
        class_weights((1.0, 2.0), np.zeros(3, int), "abc")
    assert class_weights(None, np.zeros(3, int), "abc") is None


@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.integers(0, 5), st.integers(0, 3))
def test_balanced_order_draws_classes_equally_often(labels, seed, epoch):
    labels = np.array(labels)
    order = balanced_order(labels, seed, epoch)
    assert len(order) == len(labels)
    present, drawn = np.unique(labels[order], return_counts=True)
    assert len(present) == min(len(np.unique(labels)), len(labels))
    assert drawn.max() - drawn.min() <= 1
    for label in present:  # in rounds
        of_class = np.bincount(order[labels[order] == label], minlength=len(labels))[labels == label]
        assert of_class.max() - of_class.min() <= 1
    np.testing.assert_array_equal(order, balanced_order(labels, seed, epoch))


def test_balanced_batches_resume_exactly_and_change_by_epoch(image_folder):
    for file in sorted((image_folder / "left").iterdir())[:8]:
        file.unlink()
    dataset = open_dataset(str(image_folder), val_fraction=0.3)
    images = load_images(dataset.split("train"), Preprocessing(8), budget_bytes=1 << 20)
    assert np.bincount(images.labels).tolist() == [1, 7]

    def first(start: int, count: int, **options) -> list[np.ndarray]:
        batches = train_batches(images, batch_size=4, seed=3, start_step=start, balanced=True, **options)
        return [next(batches)["image"] for _ in range(count)]

    whole = first(0, 6)
    for step in (1, 2, 5):
        np.testing.assert_array_equal(first(step, 1)[0], whole[step])
    assert not np.array_equal(whole[0], whole[2])  # two batches an epoch
    batches = train_batches(images, batch_size=4, seed=3, balanced=True)
    epoch = np.concatenate([next(batches)["label"].reshape(-1) for _ in range(2)])
    assert np.bincount(epoch).tolist() == [4, 4]
    halves = [first(1, 1, process_index=i, process_count=2)[0] for i in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves, axis=1), whole[1])
