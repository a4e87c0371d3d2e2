"""Where things that can be made or fetched again are kept between runs."""

import os
from pathlib import Path


def cache_directory(name: str) -> Path:
    """Folder for one kind of cached thing.

    It lies below `RESNEXT_JAX_CACHE`, else in `resnext_jax` below `XDG_CACHE_HOME` or `~/.cache`. It is not
    created.

    Args:
        name: the kind, "xla" or "weights".
    """
    root = os.environ.get("RESNEXT_JAX_CACHE")
    if root:
        return Path(root).expanduser() / name
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "resnext_jax" / name
