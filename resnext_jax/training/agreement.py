"""What the processes of a run must have in common: settings, versions, code, data and the run directory."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import jax

from resnext_jax.devices import check_agreement, from_first
from resnext_jax.fields import names
from resnext_jax.runs import versions
from resnext_jax.training.config import TrainConfig

# Where each process finds and reads things; the data themselves are compared by their fingerprint.
OWN = {"out", "data", "data_dir", "image_dir", "workers", "cache_gib", "peer_timeout"}
OWN |= {"distributed", "coordinator", "processes", "process_id"}

SEEN_WITHIN = 5.0  # seconds in which a shared file system shows a new file to the other hosts


def check_same_run(config: TrainConfig) -> None:
    """Refuse processes that were started with other settings, versions or code than the first.

    Args:
        config: of this process.

    Raises:
        BadInput: a setting or a version differs; the message names it and the process.
    """
    settings = {name: str(getattr(config, name)) for name in names(TrainConfig) if name not in OWN}
    check_agreement(settings | versions() | {"code": _code_digest()}, timeout=config.peer_timeout)


def check_same_data(fingerprint: dict[str, Any], timeout: float) -> None:
    """Refuse processes that read other data than the first.

    Args:
        fingerprint: summary of this process's images.
        timeout: seconds to wait for the slowest process.

    Raises:
        BadInput: names, labels, splits, sizes or contents differ.
    """
    digests = {f"data ({name})": str(value) for name, value in fingerprint["digests"].items()}
    images = {"data (images)": json.dumps(fingerprint["images"], sort_keys=True)}
    check_agreement(images | digests, timeout=timeout)


def check_shared(directory: Path, timeout: float) -> None:
    """Refuse a run directory that not all processes see.

    Args:
        directory: as this process names it; if the first one has it, it writes a file there for a moment.
        timeout: seconds to wait for the slowest process.

    Raises:
        BadInput: a process does not see what the first one does.
    """
    if jax.process_count() == 1:
        return
    primary = jax.process_index() == 0
    # The others get the name once the file is there.
    name = f".shared-{uuid4().hex}" if directory.is_dir() else ""
    probe = directory / name
    try:
        if primary and name:
            probe.touch()
        theirs, first = from_first(f"{name}\n{directory}", timeout=timeout).split("\n", 1)
        deadline = time.monotonic() + SEEN_WITHIN
        while not (same := (directory / theirs).exists() == bool(theirs)) and time.monotonic() < deadline:
            time.sleep(0.1)
        check_agreement({"out": first if same else f"{directory} (not shared)"}, timeout=timeout)
    finally:
        if primary and name:
            probe.unlink(missing_ok=True)


def _code_digest() -> str:
    """Of the files of this package."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(package.rglob("*")):
        if path.suffix in {".py", ".h", ".cc"}:
            digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
