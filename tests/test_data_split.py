"""The held-out split: a function of names and seed, stratified, groups whole."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnext_jax.data import limit, open_dataset
from resnext_jax.data.demo import DemoSource
from resnext_jax.data.split import groups_by_regex, hold_out, make_folds

CLASSES = ("a", "b", "c")


def names(count, prefix=""):
    return [f"{prefix}{i}.jpg" for i in range(count)]


@given(
    counts=st.lists(st.integers(2, 60), min_size=2, max_size=3),
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_single_images_meet_the_fraction_of_every_class(counts, fraction, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    train, val = hold_out(names(len(labels)), labels, CLASSES[: len(counts)], fraction=fraction, seed=seed)
    assert sorted([*train, *val]) == list(range(len(labels)))
    for label, count in enumerate(counts):
        held = int((labels[val] == label).sum())
        assert 1 <= held <= count - 1
        wanted = min(max(fraction * count, 1), count - 1)
        assert abs(held - wanted) <= 0.5 + 1e-9


@given(
    groups=st.lists(st.tuples(st.integers(1, 8), st.integers(0, 2)), min_size=12, max_size=40),
    mixed=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_groups_stay_whole_and_every_class_is_on_both_sides(groups, mixed, seed):
    group_of, labels = [], []
    for number, (size, label) in enumerate(groups):
        for i in range(size):
            group_of.append(f"P{number}")
            labels.append((label + i) % 3 if mixed else label)
    labels = np.array(labels)
    present = sorted(set(labels.tolist()))
    labels = np.searchsorted(present, labels)
    if any(
        len({g for g, x in zip(group_of, labels, strict=True) if x == c}) < 2 for c in range(len(present))
    ):
        return
    train, val = hold_out(group_of, labels, CLASSES[: len(present)], fraction=0.25, seed=seed)
    assert not {group_of[i] for i in train} & {group_of[i] for i in val}
    assert set(labels[train]) == set(labels[val]) == set(range(len(present)))


def test_order_of_the_images_does_not_matter_and_the_seed_does():
    labels = np.arange(200) % 2
    keys = names(200)
    order = np.random.default_rng(0).permutation(200)
    _, val = hold_out(keys, labels, "ab", fraction=0.2, seed=0)
    _, shuffled = hold_out([keys[i] for i in order], labels[order], "ab", fraction=0.2, seed=0)
    assert {keys[i] for i in val} == {keys[order[i]] for i in shuffled}
    _, other = hold_out(keys, labels, "ab", fraction=0.2, seed=1)
    assert set(other) != set(val)


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_one_more_image_moves_at_most_one_other(number):
    labels = np.zeros(101, int)
    labels[50:100] = 1
    keys = [*names(100), f"new{number}.jpg"]
    _, before = hold_out(keys[:100], labels[:100], "ab", fraction=0.2, seed=0)
    _, after = hold_out(keys, labels, "ab", fraction=0.2, seed=0)
    moved = set(before.tolist()) ^ (set(after.tolist()) - {100})
    assert len(moved) <= 1


def test_the_split_is_the_same_on_every_machine():
    """Literal values: this breaks if the split ever depends on more than names and seed."""
    labels = np.array([0] * 6 + [1] * 6)
    _, val = hold_out([f"{i}.png" for i in range(12)], labels, "ab", fraction=0.34, seed=7)
    assert val.tolist() == [0, 2, 6, 11]


def test_accents_hash_alike_in_either_form():
    labels = np.array([0, 0, 0, 1, 1, 1])
    keys = ["\u00e91", "\u00e92", "\u00e93", "\u00fc1", "\u00fc2", "\u00fc3"]
    decomposed = [unicodedata.normalize("NFD", key) for key in keys]
    assert decomposed != keys
    splits = [hold_out(form, labels, "ab", fraction=0.34, seed=3)[1] for form in (keys, decomposed)]
    np.testing.assert_array_equal(*splits)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_fraction_out_of_range(fraction):
    with pytest.raises(ValueError, match="between 0 and 1"):
        hold_out(names(10), np.arange(10) % 2, "ab", fraction=fraction, seed=0)


def test_a_class_in_one_group_cannot_be_on_both_sides():
    groups = ["P1", "P1", "P1", "P2", "P3"]
    with pytest.raises(ValueError, match=r"'a' has 3 images in 1 group:"):
        hold_out(groups, np.array([0, 0, 0, 1, 1]), "ab", fraction=0.2, seed=0)


@pytest.mark.filterwarnings("error")
def test_a_bracket_in_a_set_is_no_warning():
    assert groups_by_regex(["[a_1.jpg"], "([[a]+)_") == ["[a"]


def test_groups_by_regex():
    assert groups_by_regex(["M01_02_3.jpg", "NM7_1_0.jpg"], r"^(N?M\d+)_") == ["M01", "NM7"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "not a regular expression"),
        ("^M", "captures nothing; put"),
        (r"^(M\d)", "'x.jpg'"),
        (r"(Q)?M1|x", "'M1.jpg'"),
    ],
)
def test_groups_by_regex_refuses(pattern, message):
    with pytest.raises(ValueError, match=message):
        groups_by_regex(["M1.jpg", "x.jpg"], pattern)


@given(
    counts=st.lists(st.integers(4, 40), min_size=2, max_size=3),
    count=st.integers(2, 4),
    seed=st.integers(0, 1000),
)
def test_folds_of_single_images_are_a_partition_to_the_image(counts, count, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    fold_of = make_folds(names(len(labels)), labels, CLASSES[: len(counts)], count=count, seed=seed)
    assert fold_of.shape == labels.shape
    sizes = np.bincount(fold_of, minlength=count)
    assert len(sizes) == count
    assert sizes.max() - sizes.min() <= len(counts)
    for label in range(len(counts)):
        of_class = np.bincount(fold_of[labels == label], minlength=count)
        assert of_class.max() - of_class.min() <= 1


@given(
    groups=st.lists(st.tuples(st.integers(1, 14), st.integers(0, 1)), min_size=12, max_size=60),
    count=st.integers(2, 4),
    seed=st.integers(0, 1000),
)
def test_folds_keep_groups_whole_and_classes_even(groups, count, seed):
    group_of = [f"P{number}" for number, (size, _) in enumerate(groups) for _ in range(size)]
    labels = np.array([label for size, label in groups for _ in range(size)])
    if any(sum(label == c for _, label in groups) < count for c in (0, 1)):
        return
    fold_of = make_folds(group_of, labels, "ab", count=count, seed=seed)
    folds_of_group = {}
    for group, fold in zip(group_of, fold_of, strict=True):
        folds_of_group.setdefault(group, set()).add(int(fold))
    assert all(len(folds) == 1 for folds in folds_of_group.values())
    for label in (0, 1):
        held = np.bincount(fold_of[labels == label], minlength=count)
        assert held.min() > 0
        # The last group that makes a part the largest went to the smallest one.
        assert held.max() - held.min() <= max(size for size, of_class in groups if of_class == label)


def test_folds_depend_on_names_and_seed_alone():
    labels = np.arange(120) % 3
    keys = names(120)
    order = np.random.default_rng(0).permutation(120)
    fold_of = make_folds(keys, labels, "abc", count=3, seed=0)
    shuffled = make_folds([keys[i] for i in order], labels[order], "abc", count=3, seed=0)
    np.testing.assert_array_equal(fold_of[order], shuffled)
    assert (make_folds(keys, labels, "abc", count=3, seed=1) != fold_of).any()


def test_too_few_groups_for_the_folds():
    groups = ["P1", "P2", "P2", "P3", "P4", "P5"]
    with pytest.raises(ValueError, match=r"'a' has 3 images in 2 groups: at least 3 groups"):
        make_folds(groups, np.array([0, 0, 0, 1, 1, 1]), "ab", count=3, seed=0)
    shared = ["P1", "P1", "P1", "P2", "P3", "P4", "P4"]  # b is in three groups, and P1 has most of both
    labels = np.array([0, 1, 1, 1, 0, 0, 1])
    folds = make_folds(shared, labels, "ab", count=2, seed=0)
    assert len(set(zip(folds.tolist(), labels.tolist(), strict=True))) == 4


@pytest.mark.parametrize("fold", [0, 1, 2])
def test_a_data_set_divided_into_folds(image_folder, fold):
    held = [open_dataset(str(image_folder), group_by=r"^(P\d+)_", fold=(i, 3)).val.keys for i in range(3)]
    everything = open_dataset(str(image_folder)).split("all").keys
    assert sorted(key for keys in held for key in keys) == sorted(everything)
    dataset = open_dataset(str(image_folder), group_by=r"^(P\d+)_", fold=(fold, 3))
    assert not set(dataset.train.keys) & set(dataset.val.keys)
    assert len(dataset.train) + len(dataset.val) == 20


def test_what_comes_divided_has_no_folds():
    with pytest.raises(
        ValueError, match=r"fold=\(0, 3\): divides nothing, demo is already divided into train"
    ):
        open_dataset("demo", fold=(0, 3)).split("val")


@given(st.lists(st.integers(5, 40), min_size=2, max_size=3), st.integers(3, 100))
def test_a_limit_keeps_the_proportions(counts, count):
    labels = np.repeat(np.arange(len(counts)), counts)
    dataset = DemoSource("demo", 0, len(labels))
    dataset.labels, dataset.classes = labels, CLASSES[: len(counts)]
    chosen = limit(dataset, count, seed=0)
    if count >= len(labels):
        assert chosen is dataset
        return
    for label, total in enumerate(counts):
        wanted = min(max(total * count / len(labels), 1), total - 1)
        assert abs((chosen.labels == label).sum() - wanted) <= 0.5 + 1e-9


def test_an_expression_that_never_ends_is_refused(monkeypatch):
    monkeypatch.setattr("resnext_jax.data.split.REGEX_SECONDS", 0.2)
    with pytest.raises(ValueError, match="takes too long on these names"):
        groups_by_regex(["A" * 40 + "!"], r"^(A+)+$")
    assert groups_by_regex(["A1_2"], r"^(A\d)_") == ["A1"]
