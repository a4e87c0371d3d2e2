"""`resnext-jax data prepare`: from a published archive to a TFDS directory, without TensorFlow."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from resnext_jax.data.builders import BUILDERS, builder_class
from resnext_jax.data.tfds import TfdsName, import_tfds
from resnext_jax.errors import BadInput


def prepare_tfds(name: str, data_dir: Path, archive: Path | None = None) -> Path:
    """Prepare a data set below `data_dir` as array_record files, unless it is prepared already.

    The directory appears under its name only when it is complete.

    Args:
        name: `NAME[/CONFIG]`, one of our builders, with or without `tfds:` before it.
        data_dir: where prepared data sets are.
        archive: the published archive (monkeypox: or a folder), if it was downloaded by hand.

    Returns:
        The prepared directory, `data_dir/NAME[/CONFIG]/VERSION`.

    Raises:
        OSError: the archive is not there or cannot be downloaded, or `data_dir` cannot be written.
        ValueError: an unknown data set, or not the published archive.
    """
    wanted = TfdsName.parse(name.removeprefix("tfds:"))
    if wanted.name not in BUILDERS:
        raise BadInput(
            f"tfds:{wanted.name} cannot be prepared here: expected one of {', '.join(BUILDERS)}; other data "
            "sets are prepared by TFDS itself: tfds build NAME --file_format=array_record"
        )
    import_tfds()
    cls = builder_class(wanted.name)
    configs = list(cls.builder_configs)
    if wanted.config not in (configs or [None]):
        expected = f"tfds:{wanted.name}/{{{','.join(configs)}}}" if configs else f"tfds:{wanted.name}"
        raise BadInput(f"{name} is no config of {wanted.name}: expected {expected}")
    if wanted.version not in (None, str(cls.VERSION)):
        raise BadInput(f"{name} cannot be prepared: only version {cls.VERSION} can")

    builder = cls(data_dir=str(data_dir), config=wanted.config, file_format="array_record")
    prepared = Path(builder.data_dir)
    if prepared.exists() and not (prepared / "dataset_info.json").exists():
        raise BadInput(f"{prepared} exists but is incomplete: delete it and prepare it again")
    if not prepared.exists():
        builder.archive = cls.find_archive(archive, data_dir / "downloads")
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces it to standard output
            builder.download_and_prepare()
    return prepared
