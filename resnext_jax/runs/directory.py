"""The run directory: what lies where, who may write to it, and the configuration as a file for people."""

import contextlib
import json
import logging
import platform
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from resnext_jax.data import available_cpus
from resnext_jax.errors import BadInput
from resnext_jax.runs.history import write_json
from resnext_jax.runs.lock import LOCK, locked
from resnext_jax.runs.spec import ModelSpec

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
DAMAGED = "damaged"
"""Folder for checkpoints that were set aside."""
SUMMARY = "summary.json"
PROFILE = "profile"
"""Folder for traces of steps."""
PICTURES = "validation.json"
"""Some images of the last validation, and what they were taken for."""

# What a new run that takes the place of an older one removes; all else in the directory stays.
OURS = (
    CONFIG,
    SUMMARY,
    CHECKPOINTS,
    DAMAGED,
    "history.csv",
    "history.jsonl",
    "curves.png",
    PICTURES,
    "bad_images.txt",
    "images.csv.gz",
    "tensorboard",
    PROFILE,
)

FORMAT = 2
"""Of the run directory. 1: the model by name only, no checksums, no format."""

PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "numpy", "resnext-jax")

logger = logging.getLogger(__name__)


def is_run(directory: Path) -> bool:
    """Whether a directory is a run's of this package, also if the run is damaged or has only begun."""
    if (directory / LOCK).is_file() or saved_steps(directory):
        return True
    with contextlib.suppress(OSError, ValueError, RecursionError):
        values = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        versions = values.get("versions") if isinstance(values, dict) else None
        return isinstance(versions, dict) and "resnext-jax" in versions
    return False


@contextmanager
def claim(directory: Path, *, resume: bool = False, overwrite: bool = False) -> Iterator[None]:
    """Make a run directory unless it is there, and keep all other processes from writing to it.

    Nothing that is there is changed. A directory in which nothing was written is removed in the end.

    Args:
        directory: the run directory.
        resume: there may be a run, which goes on.
        overwrite: there may be a run, which is going to be replaced.

    Raises:
        BadInput: another process works on it, or something is there that may not be changed.
    """
    _check_content(directory, resume, overwrite)
    was_there = directory.is_dir()
    with contextlib.ExitStack() as stack:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(directory))
        except OSError as error:
            raise BadInput(f"out={directory}: {error.strerror}; choose another directory") from None
        # Again: only now nobody else can change it.
        _check_content(directory, resume, overwrite)
        try:
            yield
        finally:
            if not _content(directory):
                with contextlib.suppress(OSError):  # Windows removes no file that is open
                    (directory / LOCK).unlink()
                    if not was_there:
                        directory.rmdir()


def _check_content(directory: Path, resume: bool, overwrite: bool) -> None:
    if not directory.exists() and not directory.is_symlink():
        return
    if not directory.is_dir():
        raise BadInput(f"out={directory}: not a directory; choose another")
    if not _content(directory):
        return
    if not resume and not overwrite:
        raise BadInput(
            f"out={directory}: exists already; use resume=True, overwrite=True or another directory"
        )
    if not is_run(directory):
        raise BadInput(f"out={directory}: not a run directory; choose another")


def _content(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if path.name != LOCK]


def start(
    directory: Path, spec: ModelSpec, config: dict[str, Any], data: dict[str, Any] | None = None
) -> None:
    """Begin a run in its directory with `config.json`, in the place of an older run's files.

    Files that are no run's stay.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name in OURS:
        remove(directory / name)
    write_config(directory, spec, config, data)


def remove(path: Path, *, ignore_errors: bool = False) -> None:
    """Remove a file or a folder if it is there; of a link, the link alone.

    Args:
        path: of the run.
        ignore_errors: leave what cannot be removed of a folder.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors)
    else:
        path.unlink(missing_ok=True)


def write_config(
    directory: Path,
    spec: ModelSpec,
    config: dict[str, Any],
    data: dict[str, Any] | None = None,
    *,
    resumed: dict[str, Any] | None = None,
) -> None:
    """Write `config.json`: model, settings, versions, devices, machine, the exact command.

    Args:
        directory: the run directory.
        spec: the model.
        config: the settings, as plain JSON values.
        data: summary of the images that the run is trained on.
        resumed: the `config.json` of the run that goes on; its command and its versions stay, and the
            command that resumes is noted beside them.
    """
    about: dict[str, Any] = {
        "versions": versions(),
        "devices": [device.device_kind for device in jax.devices()],
        "machine": {"system": platform.platform(), "cpus": available_cpus()},
        "command": this_command(),
    }
    if resumed is not None:
        about = {name: resumed[name] for name in about if name in resumed} | {"resumed": about}
    described = {"config": config} | ({"data": data} if data else {})
    write_json(directory / CONFIG, {"format": FORMAT} | spec.to_dict() | described | about)


def this_command() -> str:
    """The command that started this process, as it can be repeated."""
    program = Path(sys.argv[0])
    started = sys.modules["__main__"].__spec__  # by `python -m`, or None
    module = program.name == "__main__.py" and started is not None and started.parent
    return shlex.join([*(["python", "-m", module] if module else [program.name]), *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a run's numbers depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def read_config(directory: Path) -> dict[str, Any]:
    """What `config.json` of the run in a directory says; if it is damaged, what the newest checkpoint says.

    Raises:
        FileNotFoundError: there is no run.
        BadInput: the file is damaged, and there is no checkpoint; or it is of a later version.
    """
    path = directory / CONFIG
    steps = saved_steps(directory)
    if not path.is_file() and not steps:
        raise FileNotFoundError(f"{directory}: no run here (no {CONFIG}); train one, or check the path")
    try:
        return checked(_read_json(path), path)
    except ValueError as error:
        for step in steps:
            with contextlib.suppress(ValueError, OSError):
                values = read_meta(directory, step)
                _say_damaged(str(error), step)
                return values
        raise


@cache  # a command reads it several times
def _say_damaged(error: str, step: int) -> None:
    logger.warning("%s; taken from the checkpoint of step %d", error, step)


def has_average(directory: Path) -> bool:
    """Whether the run in a directory keeps a moving average of its weights beside the raw ones.

    Raises:
        FileNotFoundError: there is no run.
    """
    return read_config(directory)["config"].get("ema_decay") is not None


def read_spec(directory: Path) -> ModelSpec:
    """The model of the run in a directory: as the newest checkpoint says that can be read, for its arrays are
    what the model takes; as `config.json` says if there is none.

    Raises:
        FileNotFoundError: there is no run.
        BadInput: the file does not describe a model.
    """
    for step in saved_steps(directory):
        with contextlib.suppress(ValueError, OSError):
            return ModelSpec.from_dict(read_meta(directory, step))
    try:
        return ModelSpec.from_dict(read_config(directory))
    except BadInput as error:
        raise BadInput(f"{directory / CONFIG}: {error}") from None


def saved_steps(directory: Path) -> list[int]:
    """The steps of which there are checkpoints, whole or not, newest first."""
    folder = directory / CHECKPOINTS
    names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted((int(name) for name in names if name.isascii() and name.isdigit()), reverse=True)


def read_meta(directory: Path, step: int) -> dict[str, Any]:
    """What a checkpoint says of its run: model, configuration, history.

    Raises:
        BadInput: damaged, or of a later version.
    """
    path = directory / CHECKPOINTS / str(step) / "meta" / "metadata"
    return checked(_read_json(path), path)


def checked(values: Any, path: Path) -> dict[str, Any]:
    """What a file says of a run, if it has all that every format has.

    Raises:
        BadInput: something is missing, or it is of a later version.
    """
    if not isinstance(values, dict) or not isinstance(values.get("config"), dict):
        raise BadInput(f"{path}: damaged, it does not describe a run")
    if (found := values.get("format", 1)) not in range(FORMAT + 1):
        raise BadInput(f"{path}: format={found!r}: expected at most {FORMAT}; written by a later version?")
    return values


def _read_json(path: Path) -> Any:
    try:
        if path.exists() and not path.is_file():  # a pipe would be read for ever
            raise ValueError("it is no file")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, PermissionError):
            raise
        raise BadInput(f"{path}: damaged ({error})") from None
