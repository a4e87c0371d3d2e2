"""From what the user writes as `data` to an open data set."""

from __future__ import annotations

from pathlib import Path

from resnext_jax.data.dataset import Dataset
from resnext_jax.data.demo import open_demo
from resnext_jax.data.folder import open_folder
from resnext_jax.data.split import Split
from resnext_jax.errors import BadInput


def open_source(data: str, rule: Split, data_dir: str | Path | None = None) -> Dataset:
    """Open a data set by its specification.

    Args:
        data: `demo`; a folder that holds class folders, or `train/ val/ [test/]` holding class folders;
            or `tfds:NAME[/CONFIG]`, a prepared TensorFlow Datasets directory below `data_dir`.
        rule: how it is divided, if it comes undivided.
        data_dir: where prepared data sets are, for `tfds:` only.

    Raises:
        FileNotFoundError: there is no such folder, or no such prepared data set.
        BadInput: it holds no usable data set.
    """
    if not data:
        raise BadInput("data='': expected `demo`, a folder, or tfds:NAME")
    if data == "demo":
        return open_demo(rule)
    if data.startswith("tfds:"):
        from resnext_jax.data.tfds import open_tfds

        return open_tfds(
            data.removeprefix("tfds:"), rule, None if data_dir is None else Path(data_dir).expanduser()
        )
    return open_folder(Path(data).expanduser(), rule)
