"""From what the user writes after `--data` to an open data set."""

from __future__ import annotations

from pathlib import Path

from resnext_jax.data.demo import open_demo
from resnext_jax.data.folder import open_folder
from resnext_jax.data.sources import SPLITS, Dataset
from resnext_jax.data.split import check_undivided
from resnext_jax.errors import BadInput


def open_dataset(
    spec: str,
    *,
    data_dir: str | Path | None = None,
    val_fraction: float = 0.2,
    split_seed: int = 0,
    group_by: str | None = None,
    fold: tuple[int, int] | None = None,
) -> Dataset:
    """Open a data set by its specification.

    A data set's own validation split is used where it has one, else its test split; else `val_fraction` of
    the training images is held out.

    Args:
        spec: `demo`; a folder that holds class folders, or `train/ val/ [test/]` holding class folders;
            or `tfds:NAME[/CONFIG]`, a prepared TensorFlow Datasets directory below `data_dir`.
        data_dir: where prepared data sets are, for `tfds:` only.
        val_fraction: share of each class to hold out where nothing is held out already, in (0, 1).
        split_seed: another seed holds out other images.
        group_by: a regular expression over each image's name; images whose first capture is equal (one
            patient, one photo) stay on one side.
        fold: (i, k): cross-validation: instead of a fraction hold out part i, counted from 0, of k.

    Raises:
        FileNotFoundError: there is no such folder, or no such prepared data set.
        ValueError: it holds no usable data set, or cannot be divided as asked.
    """
    if not 0 < val_fraction < 1:
        raise BadInput(f"val-fraction is {val_fraction}: expected a number between 0 and 1, both excluded")
    if not spec:
        raise BadInput("no data set is named: give --data (`demo`, a folder, or tfds:NAME)")
    if spec == "demo":
        check_undivided(spec, SPLITS, group_by, fold)
        return open_demo()
    if spec.startswith("tfds:"):
        from resnext_jax.data.tfds import open_tfds

        return open_tfds(
            spec.removeprefix("tfds:"),
            data_dir=None if data_dir is None else Path(data_dir).expanduser(),
            val_fraction=val_fraction,
            split_seed=split_seed,
            group_by=group_by,
            fold=fold,
        )
    root = Path(spec).expanduser()
    return open_folder(root, val_fraction=val_fraction, split_seed=split_seed, group_by=group_by, fold=fold)
