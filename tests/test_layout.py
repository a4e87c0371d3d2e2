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
    files = list((PACKAGE / part).rglob("*.py")) or [PACKAGE / f"{part}.py"]
    for file in files:
        wrong = (imported_parts(file) & set(FLOORS)) - allowed
        assert not wrong, f"{file.relative_to(PACKAGE)} imports {wrong}"


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
