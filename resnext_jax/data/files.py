"""Images without labels: single files and whole folders, to be predicted."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from resnext_jax.data.folder import read_file
from resnext_jax.data.sources import Record
from resnext_jax.data.walk import Folder


class ImageFiles:
    """A source of files and of all images below folders; every label is 0.

    Args:
        paths: files, taken whatever they are called, and folders.
        classes: what the images will be told apart into.

    Raises:
        FileNotFoundError: a path that is not there, or a folder that holds no image.
    """

    def __init__(self, paths: Sequence[str | Path], classes: tuple[str, ...]):
        self.classes = classes
        self.keys = [str(file) for path in paths for file in _expand(Path(path).expanduser())]
        self.labels = np.zeros(len(self.keys), np.int32)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Record:
        return {"image": read_file(Path(self.keys[index])), "label": 0, "key": self.keys[index]}


def _expand(path: Path) -> list[Path]:
    if path.is_dir():
        files = [path / name for name, _ in Folder(path).images]
        if not files:
            raise FileNotFoundError(f"{path}: no image in this folder; expected files that Pillow reads")
        return files
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    return [path]
