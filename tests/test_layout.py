"""The layout that the README promises: imports run downwards only; heavy packages are not loaded early."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import resnext_jax

PACKAGE = Path(resnext_jax.__file__).parent
# From the ground up: each part may import those above it in this list, and no other.
FLOORS = (
    "errors",
    "fields",
    "storage",
    "console",
    "ops",
    "devices",
    "data",
    "models",
    "runs",
    "weights",
    "inference",
    "training",
    "reports",
    "benchmark",
    "serve",
    "cli",
)
# Parts that stand side by side: these imports are not allowed although the floors would allow them.
APART = {
    "data": {"ops", "devices"},
    "models": {"storage", "data", "devices", "console"},
    "ops": {"console"},
    "training": set(),
    "benchmark": {"reports"},
    "serve": {"training", "benchmark"},
}


def part_files(part: str) -> list[Path]:
    return list((PACKAGE / part).rglob("*.py")) or [PACKAGE / f"{part}.py"]


def imported_parts(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("resnext_jax"):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("resnext_jax.")}


def test_every_part_is_in_the_list():
    parts = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert parts - {"__init__"} == set(FLOORS)


@pytest.mark.parametrize("part", FLOORS)
def test_imports_run_downwards(part):
    allowed = set(FLOORS[: FLOORS.index(part) + 1]) - APART.get(part, set())
    for file in part_files(part):
        wrong = (imported_parts(file) & set(FLOORS)) - allowed
        assert not wrong, f"{file.relative_to(PACKAGE)} imports {wrong}"


def public_names(module: str) -> set[str] | None:
    """The `__all__` of a package; None for a module of one file, which has no insides to reach into."""
    folder = PACKAGE.joinpath(*module.split(".")[1:])
    if not folder.is_dir():
        return None
    tree = ast.parse((folder / "__init__.py").read_text())
    lists = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
    ]
    return set(ast.literal_eval(lists[0])) if lists else set()


@pytest.mark.parametrize("part", FLOORS)
def test_parts_import_only_public_names_of_each_other(part):
    """`from resnext_jax.data import decode`, not `from resnext_jax.data.images import decode`."""
    for file in part_files(part):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("resnext_jax."):
                continue
            steps = node.module.split(".")
            if steps[1] == part:
                continue
            where = f"{file.relative_to(PACKAGE)}:{node.lineno}"
            public = public_names(node.module)
            if public is None:
                assert len(steps) == 2, f"{where} reaches into {node.module}: import from its package"
            else:
                hidden = {alias.name for alias in node.names} - public
                assert not hidden, f"{where}: {hidden} not in the __all__ of {node.module}"


def test_tests_are_named_after_a_part():
    """The package as a whole is the subject of a few files; scripts beside it are `experiments`."""
    whole = {"architecture", "docstrings", "layout", "reliability"}
    subjects = {file.stem.split("_")[1] for file in Path(__file__).parent.glob("test_*.py")}
    assert subjects <= {*FLOORS, "experiments", *whole}


def test_heavy_packages_load_where_they_are_used():
    code = """
import sys, resnext_jax, resnext_jax.data
heavy = {"tensorflow_datasets", "array_record", "grain", "matplotlib", "torch", "tensorflow"}
print(sorted(heavy & set(sys.modules)))
for name in ("tensorflow_datasets", "grain"):
    sys.modules[name] = None  # as if not installed
import resnext_jax.models, resnext_jax.ops, resnext_jax.weights
resnext_jax.models.VARIANTS["tiny"] = resnext_jax.models.ResNetConfig("basic", (1,))
resnext_jax.create_model("tiny", num_classes=2)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
