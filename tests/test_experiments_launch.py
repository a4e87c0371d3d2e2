"""The commands in launch files and on their page are commands of today, with flags that go together."""

import re
import shlex
from pathlib import Path

import pytest

from resnext_jax.cli.parse import parse
from resnext_jax.training import TrainConfig

FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "launch"
COMMANDS = [
    pytest.param(" ".join(found.replace("\\\n", " ").split()), id=f"{file.name}-{number}")
    for file in sorted(FOLDER.iterdir())
    if file.suffix != ".py"
    for number, found in enumerate(
        re.findall(r"resnext-jax ((?:launch|train) --(?:[^\n`\\]|\\\n)*)", file.read_text())
    )
]


def test_every_launch_file_has_a_command():
    files = {command.id.rpartition("-")[0] for command in COMMANDS}
    assert files == {file.name for file in FOLDER.iterdir() if file.suffix != ".py"}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_a_configuration_that_is_accepted(command):
    words = shlex.split(command)
    if words[0] == "launch":
        parse(words)
        words = words[words.index("train") :]
    config = parse(words)
    assert isinstance(config, TrainConfig)
    config.check()
