"""Print the lowest versions that pyproject.toml allows, and what runs the tests, as pip's requirements.

Extras are left out, so the tests that need one (torch, TensorBoard) are skipped.
"""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
runners = [name for name in project["optional-dependencies"]["test"] if name.startswith(("pytest", "hypo"))]
for requirement in project["dependencies"] + runners:
    print(requirement.replace(">=", "=="))
