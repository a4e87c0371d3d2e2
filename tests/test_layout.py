"""The layout that the README promises: imports run downwards only; heavy packages are not loaded early."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import resnext_jax

PACKAGE = Path(resnext_jax.__file__).parent
# What each part may import of the others.
BELOW = {
    "ops": {"cache"},
    "cache": set(),
    "download": set(),
    "data": {"download"},
    "models": {"ops"},
    "weights": {"models", "ops", "data", "cache", "download"},
    "training": {"weights", "models", "ops", "data", "cache"},
    "reports": {"training", "weights", "models", "ops", "data"},
}


def imported_parts(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("resnext_jax"):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("resnext_jax.")}


@pytest.mark.parametrize("part", BELOW)
def test_imports_run_downwards(part):
    files = list((PACKAGE / part).rglob("*.py")) or [PACKAGE / f"{part}.py"]
    for file in files:
        wrong = (imported_parts(file) & (BELOW.keys() | {"cli"})) - BELOW[part] - {part}
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
