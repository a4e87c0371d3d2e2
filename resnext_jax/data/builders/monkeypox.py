"""Monkeypox Skin Lesion Dataset (Ali et al. 2022, arXiv 2207.03342) from its published archive or a folder.

The archive holds `Original Images` (228 photos), `Augmented Images` (14 copies of each) and `Fold1` (the same
images again, divided), each with a folder for each class. Folders are recognised by what they are called, in
any case and with any blanks, so a folder that was unpacked or rearranged by hand is read as well.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any

import tensorflow_datasets as tfds

from resnext_jax.data.builders.archive_builder import ArchiveBuilder
from resnext_jax.data.images import decode, image_suffixes
from resnext_jax.errors import BadInput

HOMEPAGE = "https://www.kaggle.com/datasets/nafin59/monkeypox-skin-lesion-dataset"
CLASSES = ["Monkeypox", "Others"]
_CLASS_OF_FOLDER = {
    "monkeypox": "Monkeypox",
    "monkeypoxaugmented": "Monkeypox",
    "others": "Others",
    "othersaugmented": "Others",
    "nonmonkeypox": "Others",
}
# M01_02_10.jpg: patient M01, photo 02, copy 10; originals have no copy.
_FILE_NAME = re.compile(r"(?P<photo>(?P<patient>N?M\d+)_\d+)(_\d+)?\.\w+", re.IGNORECASE)

_MOST_BYTES = 1 << 28
"""Of a file in the archive, unpacked."""


class Monkeypox(ArchiveBuilder, skip_registration=True):
    """Skin lesions of monkeypox, and others (chickenpox, measles) that resemble it."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS reads it from the class)
        tfds.core.BuilderConfig(name="augmented", description="14 augmented copies of each photo."),
        tfds.core.BuilderConfig(name="original", description="The photos as they are."),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(names=CLASSES),
            "patient": tfds.features.Text(),
            "photo": tfds.features.Text(),
            "file_name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Skin lesions of monkeypox and of other diseases that resemble it.",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage=HOMEPAGE,
        )

    @classmethod
    def find_archive(cls, given: Path | None, downloads: Path) -> Path:
        if given is None:
            raise BadInput(
                f"monkeypox cannot be downloaded without an account: get the archive from {HOMEPAGE} and "
                "give it, or the folder that it was unpacked to, as archive="
            )
        if not given.exists():
            raise FileNotFoundError(f"archive {given} does not exist")
        if not given.is_dir() and not zipfile.is_zipfile(given):
            raise BadInput(f"archive {given} is neither a zip file nor a folder")
        return given

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
        with ExitStack() as stack:
            config: Any = self.builder_config
            archive = stack.enter_context(zipfile.ZipFile(self.archive)) if self.archive.is_file() else None
            for path, label in select(list_images(self.archive), config.name, self.archive):
                name = _FILE_NAME.fullmatch(path.name)
                if name is None:
                    raise BadInput(
                        f"{path} in {self.archive}: expected a name such as M01_02.jpg or NM01_02_03.jpg"
                    )
                data = (self.archive / path).read_bytes() if archive is None else _unpacked(archive, path)
                decode(data, f"{path} in {self.archive}")
                yield (
                    str(path),
                    {
                        "image": io.BytesIO(data),
                        "label": label,
                        "patient": name["patient"],
                        "photo": name["photo"],
                        "file_name": path.name,
                    },
                )


def _unpacked(archive: zipfile.ZipFile, path: PurePosixPath) -> bytes:
    """A member of a zip file. It is read, never written under the name that it has there.

    Raises:
        BadInput: damaged, or of a size that no photo has.
    """
    where = f"{path} in {archive.filename}"
    try:
        member = archive.getinfo(str(path))
        if member.file_size > _MOST_BYTES:
            raise BadInput(
                f"{where}: {member.file_size:,} bytes, of no photo; expected at most {_MOST_BYTES:,}"
            )
        return archive.read(member)
    # Encrypted (RuntimeError), packed in a way that is not known, or damaged.
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError) as error:
        raise BadInput(f"{where}: cannot be unpacked: {error}") from None


def list_images(archive: Path) -> list[PurePosixPath]:
    """Paths of the images in a zip file or below a folder, relative to it, sorted."""
    if archive.is_dir():
        paths = [PurePosixPath(p.relative_to(archive).as_posix()) for p in archive.rglob("*") if p.is_file()]
    else:
        with zipfile.ZipFile(archive) as opened:
            paths = [PurePosixPath(name) for name in opened.namelist() if not name.endswith("/")]
    hidden = (".", "__MACOSX")
    return sorted(
        path
        for path in paths
        if path.suffix.lower() in image_suffixes() and not any(part.startswith(hidden) for part in path.parts)
    )


def select(paths: list[PurePosixPath], config: str, archive: Path) -> list[tuple[PurePosixPath, str]]:
    """The images of a config, each with its class.

    Args:
        paths: all images of the archive.
        config: `original` or `augmented`; where no folder is called so, every image outside the folds is
            taken, for a folder that holds the classes alone.
        archive: for messages.

    Raises:
        ValueError: no image of the config, or of one of its classes.
    """
    labelled: dict[str | None, list[tuple[PurePosixPath, str]]] = {"original": [], "augmented": [], None: []}
    for path in paths:
        folders = [re.sub(r"[^a-z]", "", part.lower()) for part in path.parts[:-1]]
        label = _CLASS_OF_FOLDER.get(folders[-1]) if folders else None
        if label is None or "fold" in folders:
            continue
        kinds = [k for k in ("original", "augmented") if any(folder.startswith(k) for folder in folders)]
        labelled[kinds[0] if kinds else None].append((path, label))
    called = labelled["original"] or labelled["augmented"]
    chosen = labelled[config] if called else labelled[None]
    if missing := [name for name in CLASSES if name not in {label for _, label in chosen}]:
        raise BadInput(
            f"{archive} holds no {config} image of {' and '.join(missing)}: expected folders such as "
            f"'{config.title()} Images/{missing[0]}' or '{missing[0]}'"
        )
    return chosen
