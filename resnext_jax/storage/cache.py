"""Where things that can be made or fetched again are kept between runs."""

import os
import stat
from contextlib import suppress
from pathlib import Path


def cache_directory(name: str) -> Path:
    """Folder for one kind of cached thing.

    It lies below `RESNEXT_JAX_CACHE`, else in `resnext_jax` below `XDG_CACHE_HOME` or `~/.cache`. It is not
    created.

    Args:
        name: the kind, such as "weights".

    Example:
        >>> cache_directory("weights").name
        'weights'
    """
    root = os.environ.get("RESNEXT_JAX_CACHE")
    if root:
        return Path(root).expanduser() / name
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "resnext_jax" / name


def private_cache_directory(name: str) -> Path:
    """Folder for cached things that this process will execute, so nobody but the user may write them.

    Users may share the cache, so each has a folder of their own in it, `<name>-<user id>`. It is created with
    mode 0700. Windows keeps users' folders apart by itself; there the folder is called `<name>`.

    Args:
        name: the kind, such as "kernels".

    Raises:
        OSError: the folder cannot be created, belongs to another user, or stays open to others.
    """
    if not hasattr(os, "geteuid"):
        path = cache_directory(name)
        path.mkdir(parents=True, exist_ok=True)
        return path
    path = cache_directory(f"{name}-{os.geteuid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    if not is_own(path) or not path.is_dir():
        raise PermissionError(f"{path} belongs to another user, or is no directory")
    if stat.S_IMODE(path.lstat().st_mode) & 0o077:
        path.chmod(0o700)
    if stat.S_IMODE(path.lstat().st_mode) & 0o077:
        raise PermissionError(f"{path} can be opened by other users")
    return path


def is_own(path: Path) -> bool:
    """Whether a file or folder belongs to this process's user; not what a link points to."""
    about = path.lstat()
    return not stat.S_ISLNK(about.st_mode) and about.st_uid == os.geteuid()
