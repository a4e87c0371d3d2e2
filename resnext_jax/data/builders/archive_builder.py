"""What our builders have in common: they read one archive that is checked before anything is written."""

from __future__ import annotations

from pathlib import Path

import tensorflow_datasets as tfds


class ArchiveBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A builder that reads one local archive.

    Attributes:
        archive: set before `download_and_prepare`, from `find_archive`.
    """

    archive: Path

    @classmethod
    def find_archive(cls, given: Path | None, downloads: Path) -> Path:
        """The archive to read: the one that the user gave, or the published one downloaded, and checked.

        Args:
            given: what the user gave, or None.
            downloads: where to download to.

        Raises:
            OSError: it is not there, or cannot be downloaded.
            ValueError: it is not the published archive, or has to be given and was not.
        """
        raise NotImplementedError
