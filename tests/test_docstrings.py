"""The examples in docstrings run, and print what they say; every public name explains itself."""

import doctest
import importlib
import inspect
import pkgutil
from types import ModuleType

import pytest

import resnext_jax

# Shapes and names are what examples show; digits of floats that differ from machine to machine are left out.
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def modules() -> list[str]:
    found = pkgutil.walk_packages(resnext_jax.__path__, "resnext_jax.")
    return ["resnext_jax", *(module.name for module in found)]


def parts() -> list[str]:
    """Packages and modules that stand directly in resnext_jax."""
    return [name for name in modules() if name.count(".") <= 1]


def public(module: ModuleType) -> dict[str, object]:
    return {name: getattr(module, name) for name in getattr(module, "__all__", ())}


def examples(module: str) -> list[doctest.DocTest]:
    tests = doctest.DocTestFinder().find(importlib.import_module(module), globs={})
    return [test for test in tests if test.examples]


@pytest.mark.parametrize("module", modules())
def test_examples_run(module, tmp_path, monkeypatch):
    """Each in an empty folder, with the names of its module and with `rj`."""
    for test in examples(module):
        monkeypatch.chdir(tmp_path)
        test.globs = vars(importlib.import_module(module)) | {"rj": resnext_jax}
        said: list[str] = []
        result = doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=said.append)
        assert not result.failed, "".join(said)


@pytest.mark.parametrize("part", parts())
def test_public_names_are_explained(part):
    for name, value in public(importlib.import_module(part)).items():
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), f"{part}.{name} has no docstring"
