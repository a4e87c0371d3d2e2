"""Images without labels: files, whole folders, arrays and Pillow's images, to be predicted."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from resnext_jax.data.folder import read_file
from resnext_jax.data.images import upright
from resnext_jax.data.sources import Record
from resnext_jax.data.walk import Folder, at_home
from resnext_jax.errors import BadInput

ImageLike: TypeAlias = str | Path | np.ndarray | Image.Image
"""A file, a folder of images, an array (uint8 [h, w, 3], [h, w, 1] or [h, w]), or a picture of Pillow's."""


class GivenImages:
    """A source of images that are given one by one or in folders; every label is 0.

    Args:
        images: one or several of `ImageLike`, or an array [N, h, w, 3]. Files are taken whatever they are
            called.
        classes: the model's class names, if they are known.

    Raises:
        FileNotFoundError: a path that is not there, or a folder that holds no image.
        BadInput: something else than images.

    Example:
        >>> source = GivenImages([np.zeros((6, 8, 3), np.uint8), Image.new("RGB", (8, 6))])
        >>> len(source), source[1]["image"].shape
        (2, (6, 8, 3))
    """

    def __init__(self, images: ImageLike | Sequence[ImageLike], classes: tuple[str, ...] = ("unlabelled",)):
        self.classes = classes
        self._images: list[Path | np.ndarray | Image.Image] = []
        self.keys: list[str] = []
        for i, image in enumerate(_several(images)):
            if isinstance(image, str | Path):
                files = list_files([image])
                self._images += files
                self.keys += map(str, files)
            else:
                self.keys.append(getattr(image, "filename", "") or f"image {i}")
                self._images.append(image if isinstance(image, Image.Image) else _array(image, self.keys[-1]))
        self.labels = np.zeros(len(self.keys), np.int32)
        self.sizes = np.zeros(len(self.keys), np.int64)  # not known before they are read

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Record:
        image, key = self._images[index], self.keys[index]
        if isinstance(image, Path):
            image = read_file(image)
        elif isinstance(image, Image.Image):
            image = upright(image, key)
        return {"image": image, "label": 0, "key": key}


def _several(images: Any) -> Sequence[Any]:
    """A list, also of what is one image."""
    several: Sequence[Any] = images
    is_one = isinstance(images, str | Path | Image.Image) or getattr(images, "ndim", 4) < 4
    return [images] if is_one else several


def _array(image: Any, key: str) -> np.ndarray:
    """uint8 [h, w, 3] or [h, w, 1]."""
    array = np.asarray(image)
    array = array[..., None] if array.ndim == 2 else array
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] not in (1, 3) or not array.size:
        raise BadInput(
            f"{key}: expected a path, a picture of Pillow's or uint8 [h, w, 3]; got "
            + (f"{array.dtype} {list(np.shape(image))}" if array.ndim else type(image).__name__)
        )
    return array


def list_files(paths: Sequence[str | Path]) -> list[Path]:
    """Files, those of all images below folders, and what patterns such as `scans/*.png` fit.

    Raises:
        FileNotFoundError: a path that is not there, a folder without an image, or a pattern that fits none.

    Example:
        >>> for name in ("a.png", "b.jpg", "c.txt"):
        ...     Path(name).touch()
        >>> [str(file) for file in list_files([".", "a*"])]
        ['a.png', 'b.jpg', 'a.png']
    """
    return [file for path in paths for file in _expand(at_home(path))]


def _expand(path: Path) -> list[Path]:
    if path.is_dir():
        files = [path / name for name, _ in Folder(path).images]
        if not files:
            raise FileNotFoundError(f"{path}: no image in this folder; expected files that Pillow reads")
        return files
    if os.path.lexists(path):  # a pipe or a broken link is an image that cannot be read
        return [path]
    if glob.has_magic(str(path)):
        found = sorted(glob.glob(str(path), recursive=True))
        if not found:
            raise FileNotFoundError(f"{path}: no file fits this pattern")
        return list_files(found)
    raise FileNotFoundError(f"{path}: no such file or folder")
