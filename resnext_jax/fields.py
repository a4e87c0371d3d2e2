"""Configurations whose fields carry their own rules.

The rules of a field stand beside it, as metadata of its type, and `Config.check` walks the fields:

    @dataclass(frozen=True, kw_only=True)
    class OptimizerConfig(Config):
        optimizer: Literal["sgd", "adam"] = "sgd"
        momentum: Annotated[float, Range(least=0, below=1), GoesWith("optimizer", "sgd")] = 0.9

A configuration may inherit from several parts; the command line shows each part under a heading of its own.
"""

import operator
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self, Union

from resnext_jax.errors import BadInput


class Range:
    """Bounds of a number, or of every number in a tuple. A bound may be the name of another field.

    Args:
        above: excluded lower bound.
        least: included lower bound.
        below: excluded upper bound.
        most: included upper bound.
    """

    def __init__(
        self,
        *,
        above: float | None = None,
        least: float | str | None = None,
        below: float | str | None = None,
        most: float | None = None,
    ):
        self._bounds = [
            (bound, words, holds)
            for bound, words, holds in (
                (above, "above", operator.gt),
                (least, "of at least", operator.ge),
                (below, "below", operator.lt),
                (most, "at most", operator.le),
            )
            if bound is not None
        ]

    def holds(self, config: "Config", number: float) -> bool:
        """Whether a number of a configuration is within the bounds."""
        return all(holds(number, bound) for _, bound, _, holds in self._known(config))

    def words(self, config: "Config") -> str:
        """What is expected, for messages."""
        return "a number " + " and ".join(
            f"{words} {f'{name}=' if isinstance(name, str) else ''}{bound}"
            for name, bound, words, _ in self._known(config)
        )

    def _known(self, config: "Config") -> list[tuple[Any, Any, str, Callable[[Any, Any], bool]]]:
        """The bounds, each as it was given and as a number; a field that is None bounds nothing."""
        return [
            (given, bound, words, holds)
            for given, words, holds in self._bounds
            if (bound := getattr(config, given) if isinstance(given, str) else given) is not None
        ]


class GoesWith:
    """The field does nothing unless another has one of some values.

    Args:
        other: name of the other field.
        values: its values; none: any but its default.
    """

    def __init__(self, other: str, *values: object):
        self.other, self.values = other, values

    def holds(self, config: "Config") -> bool:
        value = getattr(config, self.other)
        return value in self.values if self.values else value != default_of(config, self.other)

    def __str__(self) -> str:
        return " or ".join(f"{self.other}={value!r}" for value in self.values) or self.other


class NotWith:
    """The field and another cannot both be given.

    Args:
        other: name of the other field.
        values: only these values of it; none: any but its default.
    """

    def __init__(self, other: str, *values: object):
        self.rule = GoesWith(other, *values)


class Free:
    """A resumed run may have another value: it says where and how the run works, not what it computes.

    Args:
        unless: the name of another field and its values under which this one decides the result after all.
    """

    def __init__(self, unless: tuple[str, ...] = ()):
        self.unless = unless

    def holds(self, config: "Config") -> bool:
        """Whether the field may change."""
        return not self.unless or getattr(config, self.unless[0]) not in self.unless[1:]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of frozen dataclasses whose fields carry their rules."""

    def __post_init__(self) -> None:
        """Accept a string for a path, and a list for a tuple."""
        for name, hint, _ in _described(type(self)):
            object.__setattr__(self, name, _converted(getattr(self, name), hint))

    def check(self) -> None:
        """Check every field by itself and against those that its rules name.

        Parts extend it with what concerns several fields.

        Raises:
            BadInput: a value of the wrong type or out of range, or fields that contradict each other; the
                message names them.
        """
        described = _described(type(self))
        for name, hint, _ in described:
            if not _is_a(getattr(self, name), hint):
                raise BadInput(f"{shown(self, name)}: expected {_words(hint)}")
        for name, _, rules in described:
            for rule in rules:
                _check_rule(self, name, rule)

    def changes(self, other: "Config") -> list[str]:
        """What differs from `other` although a resumed run may not change it, as "name: other's -> ours"."""
        found = []
        for name, _, rules in _described(type(self)):
            free = any(isinstance(rule, Free) and rule.holds(self) for rule in rules)
            ours, theirs = getattr(self, name), getattr(other, name)
            if not free and ours != theirs:
                found.append(f"{name}: {theirs} -> {ours}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, part by part."""
        return {name: _plain(getattr(self, name)) for name in names(type(self))}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Back from `to_dict`.

        Raises:
            BadInput: a field that this version does not know, or a value that its field's rules forbid.
        """
        unknown = sorted(set(values) - set(names(cls)))
        if unknown:
            raise BadInput(
                f"unknown field{'s' * (len(unknown) > 1)} {', '.join(unknown)}: written by another version?"
            )
        config = cls(**values)
        Config.check(config)
        return config

    @classmethod
    def pick(cls, values: dict[str, Any]) -> Self:
        """As `from_dict`, from values that may hold more than this configuration's fields."""
        return cls.from_dict({name: values[name] for name in names(cls) if name in values})


def parts(cls: type) -> list[type[Config]]:
    """The configurations that a class is put together from, in the order in which it names them."""
    return [part for part in cls.__mro__ if Config in part.__bases__]


def names(cls: type[Config]) -> list[str]:
    """Names of the fields, part by part."""
    inherited = [field.name for part in parts(cls) for field in fields(part)]
    return inherited + [field.name for field in fields(cls) if field.name not in inherited]


def default_of(config: Config, name: str) -> Any:
    """Default of a field."""
    field = type(config).__dataclass_fields__[name]
    return field.default_factory() if field.default_factory is not MISSING else field.default


def shown(config: Config, name: str) -> str:
    """A field as messages name it: `name=value`."""
    value = getattr(config, name)
    return f"{name}={value if isinstance(value, Path) else repr(value)}"


def _check_rule(config: Config, name: str, rule: object) -> None:
    value = getattr(config, name)
    if isinstance(rule, Range):
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not rule.holds(config, number):
                raise BadInput(f"{shown(config, name)}: expected {rule.words(config)}")
    elif value == default_of(config, name):
        return
    elif isinstance(rule, GoesWith) and not rule.holds(config):
        theirs = getattr(config, rule.other)
        state = f"without {rule.other}" if theirs is None else f"with {shown(config, rule.other)}"
        raise BadInput(f"{shown(config, name)} {state}: it has no effect; leave it out, or give {rule}")
    elif isinstance(rule, NotWith) and rule.rule.holds(config):
        raise BadInput(f"{shown(config, name)} with {shown(config, rule.rule.other)}: choose one")


@cache
def _described(cls: type[Config]) -> list[tuple[str, Any, tuple[object, ...]]]:
    """Name, type and rules of each field."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return [
        (name, getattr(hint, "__origin__", hint) if rules else hint, rules)
        for name in names(cls)
        for hint in (hints[name],)
        for rules in (getattr(hint, "__metadata__", ()),)
    ]


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The members of a union; of another type, itself."""
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _is_a(value: Any, hint: Any) -> bool:
    return any(_is_one(value, kind) for kind in _kinds(hint))


def _is_one(value: Any, kind: Any) -> bool:
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        return isinstance(value, str) and value in arguments
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, tuple):
            return False
        of = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        return len(value) == len(of) and all(map(_is_a, value, of))
    if kind is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and abs(value) <= sys.float_info.max  # a whole number may have more digits
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LIMIT
    return value is None if kind in (None, type(None)) else isinstance(value, kind)


LIMIT = 2**63  # of whole numbers
WORDS = {
    bool: ("True or False",) * 2,
    int: ("a whole number of 64 bits", "whole numbers of 64 bits"),
    float: ("a finite number", "finite numbers"),
    str: ("a text", "texts"),
    Path: ("a path", "paths"),
}


def _words(hint: Any) -> str:
    """A type in words."""
    said = []
    for kind in _kinds(hint):
        arguments: tuple[Any, ...] = typing.get_args(kind)
        if typing.get_origin(kind) is Literal:
            one_of = f"one of {', '.join(arguments)}"
            said.append(one_of if len(arguments) > 1 else f"{', '.join(map(repr, arguments))}")
        elif typing.get_origin(kind) is tuple:
            several = "several" if arguments[-1] is Ellipsis else len(arguments)
            one, many = arguments[0], WORDS.get(arguments[0])
            said.append(f"{several} {many[1]}" if many else f"{several}, each {_words(one)}")
        elif kind is not type(None):
            said.append(WORDS[kind][0])
    return " or ".join(said)


def _converted(value: Any, hint: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return Path(value) if isinstance(value, str) and Path in _kinds(hint) else value


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
