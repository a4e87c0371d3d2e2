"""TensorFlow Datasets builders of our own, which need no TensorFlow: how published archives are prepared.

Importing a builder's module imports `tensorflow_datasets`; this file does not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resnext_jax.data.builders.archive_builder import ArchiveBuilder

BUILDERS = {"cifar10": "Cifar10", "monkeypox": "Monkeypox"}


def builder_class(name: str) -> type[ArchiveBuilder]:
    """The builder of a data set in `BUILDERS`."""
    return getattr(importlib.import_module(f"resnext_jax.data.builders.{name}"), BUILDERS[name])
