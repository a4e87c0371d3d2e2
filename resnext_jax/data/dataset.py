"""A data set opened: its classes and its splits, divided only when a split is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from resnext_jax.data.sources import Concatenation, NamedSource, Source, Subset
from resnext_jax.data.split import Split
from resnext_jax.errors import BadInput

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Dataset:
    """A data set opened. Nothing is divided, and nothing is refused, before a split is asked for.

    A data set's own validation split is used if it has one, else its test split; if it has training images
    only, a part of them is held out. A split that it lacks is None.

    Args:
        name: what the user called it, for messages.
        classes: class names, in the order of the labels.
        parts: the splits that the data come in, by `train`, `val` and `test`; undivided data are `train`.
        rule: how undivided data are divided, and how many images of a split are used.

    Example:
        >>> from resnext_jax.data import open_dataset
        >>> dataset = open_dataset("demo")
        >>> dataset.splits, dataset.undivided, len(dataset.split("all"))
        (('train', 'val', 'test'), False, 900)
    """

    name: str
    classes: tuple[str, ...]
    parts: Mapping[str, NamedSource]
    rule: Split

    @property
    def undivided(self) -> bool:
        """Whether the data come without a split of their own."""
        return list(self.parts) == ["train"]

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that can be asked for by name."""
        present = {"train", "val"} if self.undivided else set(self.parts)
        if "test" in present:
            present.add("val")
        return tuple(split for split in SPLITS if split in present)

    @cached_property
    def train(self) -> Source | None:
        """Training images.

        Raises:
            BadInput: the data cannot be divided as `rule` says.
        """
        if "train" not in self.parts:
            return None
        self._check_classes()
        return self.rule.limited("train", self._held_out[0] if self.undivided else self._own("train"))

    @cached_property
    def val(self) -> Source | None:
        """Validation images; the same as `test` if the data come with a test split and no validation split.

        Raises:
            BadInput: the data cannot be divided as `rule` says.
        """
        if self.undivided:
            self._check_classes()
            return self.rule.limited("val", self._held_out[1])
        name = "val" if "val" in self.parts else "test"
        return self.rule.limited("val", self._own(name)) if name in self.parts else None

    @property
    def test(self) -> Source | None:
        """Test images."""
        return self.parts.get("test")

    def split(self, name: str) -> Source:
        """One split by name, or every image of the data set as `all`, which is never divided.

        Raises:
            BadInput: the data set has no such split, or cannot be divided.
        """
        if name == "all":
            sources = list(self.parts.values())
            return sources[0] if len(sources) == 1 else Concatenation(sources)
        source = getattr(self, name) if name in SPLITS else None
        if source is None:
            raise BadInput(
                f"{self.name} has no {name} split: expected one of {', '.join(self.splits)} or all"
            )
        return source

    @cached_property
    def _held_out(self) -> tuple[Source, Source]:
        source = self.parts["train"]
        train, val = self.rule.divide(source)
        return Subset(source, train), Subset(source, val)

    def _own(self, name: str) -> NamedSource:
        """A split that the data come with."""
        self.rule.check_undivided(self.name, self.parts)
        return self.parts[name]

    def _check_classes(self) -> None:
        if len(self.classes) < 2:
            raise BadInput(f"{self.name} has one class only, {', '.join(self.classes)}: expected two or more")
