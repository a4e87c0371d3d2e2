"""The run directory: what lies where, and the configuration in it as a file that people and scripts read."""

import json
import platform
import shlex
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from resnext_jax.errors import BadInput
from resnext_jax.runs.history import write_json
from resnext_jax.runs.spec import ModelSpec

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"

PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "numpy", "resnext-jax")


def check_free(directory: Path, *, overwrite: bool) -> None:
    """Check, before anything is read, that a new run may be written to the directory.

    Raises:
        BadInput: something is there that may not be replaced.
    """
    if not directory.exists():
        return
    if not directory.is_dir():
        raise BadInput(f"out={directory}: not a directory; choose another")
    if any(directory.iterdir()):
        if not overwrite:
            raise BadInput(f"out={directory}: exists already; use resume, overwrite or another directory")
        if not (directory / CONFIG).is_file():
            raise BadInput(f"out={directory}: not a run directory (no {CONFIG}), so it is not overwritten")


def start(
    directory: Path, spec: ModelSpec, config: dict[str, Any], data: dict[str, Any] | None = None
) -> None:
    """Make a new run directory, in the place of an older run's, with its `config.json`."""
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    write_config(directory, spec, config, data)


def write_config(
    directory: Path,
    spec: ModelSpec,
    config: dict[str, Any],
    data: dict[str, Any] | None = None,
    *,
    resumed: dict[str, Any] | None = None,
) -> None:
    """Write `config.json`: model, settings, versions, devices, the exact command.

    Args:
        directory: the run directory.
        spec: the model.
        config: the settings, as plain JSON values.
        data: summary of the images that the run is trained on.
        resumed: the `config.json` of the run that goes on; its command and its versions stay, and the
            command that resumes is noted beside them.
    """
    about: dict[str, Any] = {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "devices": [device.device_kind for device in jax.devices()],
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
    if resumed is not None:
        about = {name: resumed.get(name) for name in about} | {"resumed": about}
    described = {"config": config} | ({"data": data} if data else {})
    write_json(directory / CONFIG, spec.to_dict() | described | about)


def read_config(directory: Path) -> dict[str, Any]:
    """What `config.json` of the run in a directory says.

    Raises:
        FileNotFoundError: there is no run.
    """
    path = directory / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{directory}: no run here (no {CONFIG}); train one, or check the path")
    return json.loads(path.read_text())


def read_spec(directory: Path) -> ModelSpec:
    """The model of the run in a directory, as `config.json` says.

    Raises:
        FileNotFoundError: there is no run.
    """
    return ModelSpec.from_dict(read_config(directory))
