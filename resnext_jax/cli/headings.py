"""Flags under headings: tyro shows each part of a configuration as a group of its own."""

import dataclasses
from typing import Any

from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from resnext_jax.fields import Config, parts

HEADINGS = ConstructorRegistry()
"""To be given to tyro as `registry`."""


@HEADINGS.struct_rule
def _by_part(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Parse a configuration put together from parts as if the parts were nested in it."""
    cls = info.type
    if not (isinstance(cls, type) and issubclass(cls, Config)) or cls in parts(cls):
        return None
    if len(_names(cls)) > sum(len(_names(part)) for part in parts(cls)):
        return None  # it has fields of its own
    given = info.default if isinstance(info.default, cls) else None
    nested = {part.__name__.removesuffix("Config").lower(): part for part in parts(cls)}
    specs = [StructFieldSpec(name, part, _of_part(part, given)) for name, part in nested.items()]

    def make(**values: Any) -> Any:
        flat = {name: getattr(values[key], name) for key, part in nested.items() for name in _names(part)}
        return cls(**flat)

    return StructConstructorSpec(make, tuple(specs))


def _of_part(part: type[Config], whole: Config | None) -> Config:
    return part() if whole is None else part(**{name: getattr(whole, name) for name in _names(part)})


def _names(part: type[Config]) -> list[str]:
    return [field.name for field in dataclasses.fields(part)]
