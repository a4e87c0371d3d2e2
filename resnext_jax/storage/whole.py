"""Writing a file whole or not at all."""

import os
from pathlib import Path


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file so that readers, and a machine that dies, see the old content or the new, nothing between.

    Args:
        path: the file; its folder must exist.
        content: text is written as UTF-8.

    Raises:
        OSError: no space left, or no permission; the message names the file, and an older one is unchanged.

    Example:
        >>> write_whole(Path("notes.txt"), "all of it")
        >>> Path("notes.txt").read_text()
        'all of it'
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    partial = path.with_name(path.name + ".partial")
    try:
        # A new file: what lies there may be a link to somebody's file.
        partial.unlink(missing_ok=True)
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(f"{path}: not written: {error.strerror}") from error
