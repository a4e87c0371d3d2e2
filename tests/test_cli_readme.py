"""Pages for users: their commands are commands, their links lead somewhere, and README's weights are had."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import resnext_jax as rj
from resnext_jax.cli.parse import parse

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "experiments/README.md", "experiments/fine_tuning.md", "checkpoints/README.md"]
OTHER_PAGES = ["resnext_jax/README.md", "resnext_jax/ops/README.md", "tests/README.md"]


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """Fenced blocks of a language; "" are those without one."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> Iterator[list[str]]:
    """The words after `resnext-jax` of each command, in blocks and in the text."""
    lines = "".join(blocks(text, "") + blocks(text, "bash")).replace("\\\n", " ").splitlines()
    values = dict(line.split("=", 1) for line in lines if re.match(r"[A-Z]+=[\"\w]", line))
    within = re.findall(
        r"`resnext-jax ([^`\n]*(?:\n[^`\n]*)?)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    )
    for command in [
        line.removeprefix("resnext-jax ") for line in lines if line.startswith("resnext-jax ")
    ] + within:
        if "..." in command:
            continue  # a pattern of commands
        for name, value in values.items():
            command = command.replace(f"${name}", value.strip('"'))
        yield shlex.split(command.replace("$NORMS", "bn1"), comments=True)


@pytest.mark.parametrize("name", PAGES)
def test_commands_on_pages_are_commands(name):
    found = [*commands(page(name))]
    if name in ("README.md", "experiments/fine_tuning.md"):
        assert len(found) > 8
    for words in found:
        if "--help" in words:
            continue
        try:
            parse(words)
        except rj.BadInput as error:
            pytest.fail(f"{name}: resnext-jax {' '.join(words)}: {error}")


@pytest.mark.parametrize("name", PAGES + OTHER_PAGES)
def test_links_of_pages_lead_somewhere(name):
    text = page(name)
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text) + re.findall(r'src="([^"]+)"', text)
    for link in links:
        if not link.startswith("http"):
            assert (ROOT / name).parent.joinpath(link).exists(), f"{name}: {link}"
    scripts = re.findall(r"`python (experiments/\S+\.py)", text)
    assert all((ROOT / script).is_file() for script in scripts)


def test_pictures_in_readme_are_small_and_have_words():
    images = re.findall(r'<img src="([^"]+)" [^>]*alt="([^"]+)"', page("README.md"))
    assert len(images) >= 8
    assert all(len(words.split()) > 4 for _, words in images)
    assert sum((ROOT / file).stat().st_size for file, _ in images) < 300_000


def test_python_in_readme_names_what_there_is():
    found = blocks(page("README.md"), "python")
    assert found
    for block in found:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "rj":
                assert hasattr(rj, node.attr), node.attr
