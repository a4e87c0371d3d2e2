"""Weights from wherever they are: names, the hub, folders, files and run directories, opened in one way."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from resnext_jax.errors import BadInput
from resnext_jax.runs import read_config, read_spec
from resnext_jax.storage import cache_directory, download
from resnext_jax.weights.descriptions import (
    CONFIG,
    PREPROCESSOR,
    WEIGHT_FILES,
    Description,
    describe,
    is_description,
    read_json,
)
from resnext_jax.weights.hub import fetch, hub_repository
from resnext_jax.weights.named import NamedWeights, is_name, known_license, named_weights, split_tag

log = logging.getLogger(__name__)

_NON_COMMERCIAL = "-nc"


@dataclass(frozen=True)
class Source:
    """Weights that were found, of which no array was read yet.

    Args:
        locate: gives the path of the file, or of the run directory; it may download.
        description: what is known of them.
    """

    locate: Callable[[], Path]
    description: Description


def open_weights(weights: str | Path, model: str | None = None) -> Source:
    """Find weights, and what describes them; of the hub this fetches the small files only.

    Args:
        weights: as in `create_model`.
        model: name of the variant that they are meant for; required if torchvision's name or timm's tag alone
            names them.

    Raises:
        FileNotFoundError: no such file or folder.
        ConnectionError: the hub can't be reached.
        BadInput: no such name, or a folder that holds no weights.

    Example:
        >>> open_weights("IMAGENET1K_V2", "resnext50_32x4d").description.preprocessing.resize_size
        232
    """
    text = str(weights)
    if is_name(text):
        if model is None:
            raise BadInput(f"weights={text!r}: name the model whose weights they are (model=NAME)")
        return _of_name(text, split_tag(model)[0])
    tagged, tag = (text, None) if Path(text).exists() else split_tag(text)
    if tag is not None:
        return _of_name(tag, tagged)
    if (repository := hub_repository(text)) is not None:
        return _of_hub(repository)
    path = Path(text)
    if path.is_dir():
        return _of_folder(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file or directory; expected weights as a file, a run directory, a name of "
            "torchvision's or timm's, or a repository of the hub (owner/name)"
        )
    beside = path.parent / CONFIG
    if beside.is_file() and is_description(config := read_json(beside)):
        log.info("%s: the model, its preprocessing and its classes are read from %s beside it", path, CONFIG)
        return Source(lambda: path, _described(config, path.parent / PREPROCESSOR, str(beside)))
    return Source(lambda: path, Description())


def _of_name(weights: str, model: str) -> Source:
    named = named_weights(weights, model)
    if isinstance(named, NamedWeights):
        return Source(partial(_download, named), Description(model, preprocessing=named.preprocessing))
    return _of_hub(named.repository)


def _of_folder(folder: Path) -> Source:
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    if not is_description(config):
        if not config and any((folder / name).is_file() for name in WEIGHT_FILES):
            raise BadInput(f"{folder}: weights without {CONFIG}; give the file itself")
        return Source(lambda: folder, _of_run(folder))
    description = _described(config, folder / PREPROCESSOR, str(folder / CONFIG))
    files = [folder / name for name in WEIGHT_FILES if (folder / name).is_file()]
    if not files:
        raise FileNotFoundError(f"{folder}: no weights there: expected {' or '.join(WEIGHT_FILES)}")
    return Source(lambda: files[0], description)


def _of_run(folder: Path) -> Description:
    spec = read_spec(folder)
    license = read_config(folder)["config"].get("license")
    return Description(spec.name, spec.architecture, spec.preprocessing, spec.classes, license)


def _of_hub(repository: str) -> Source:
    config = read_json(fetch(repository, CONFIG))
    if not is_description(config):
        raise BadInput(f"{repository}: its {CONFIG} names no architecture")
    preprocessor = None if "architecture" in config else fetch(repository, PREPROCESSOR)
    description = _described(config, preprocessor, repository)
    if description.license is None:
        description = replace(description, license=known_license(repository))
    _say_license(repository, description.license)
    return Source(lambda: fetch(repository, *WEIGHT_FILES), description)


def _described(config: dict, preprocessor: Path | None, where: str) -> Description:
    beside = read_json(preprocessor) if preprocessor is not None and preprocessor.is_file() else None
    return describe(config, beside, where)


def _say_license(where: str, license: str | None) -> None:
    if license and _NON_COMMERCIAL in license.lower():
        log.warning("%s: licence %s: not for commercial use", where, license)


def _download(named: NamedWeights) -> Path:
    path = cache_directory("weights") / named.file
    return download(named.url, path, sha256_prefix=named.sha256_prefix)
