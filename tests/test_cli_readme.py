"""Pages for users: their commands are commands, their links lead somewhere, and README's weights are had."""

import ast
import functools
import http.server
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from test_weights_hub import Hub

import resnext_jax as rj
from resnext_jax.cli.parse import parse
from resnext_jax.data import open_dataset

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "experiments/README.md", "experiments/fine_tuning.md", "checkpoints/README.md"]
OTHER_PAGES = ["resnext_jax/README.md", "resnext_jax/ops/README.md", "tests/README.md"]


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str, *languages: str) -> list[str]:
    """Fenced blocks of these languages; "" are those without one."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for language, block in fenced if language in languages]


def commands(text: str) -> Iterator[list[str]]:
    """The words after `resnext-jax` of each command, in blocks and in the text."""
    lines = "".join(blocks(text, "", "bash")).replace("\\\n", " ").splitlines()
    values = dict(line.split("=", 1) for line in lines if re.match(r"[A-Z]+=[\"\w]", line))
    within = re.findall(
        r"`resnext-jax ([^`\n]*(?:\n[^`\n]*)?)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    )
    for command in [
        line.removeprefix("resnext-jax ") for line in lines if line.startswith("resnext-jax ")
    ] + within:
        for name, value in values.items():
            command = command.replace(f"${name}", value.strip('"'))
        words = shlex.split(command.replace("$NORMS", "bn1"), comments=True)
        if "..." not in words:  # which stands for more words
            yield words


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


@pytest.fixture
def readers_folder(tmp_path, torchvision) -> Path:
    """What the reader of README's section on weights has: images, a run, a checkpoint, the hub's files."""
    import torch

    folder = tmp_path / "here"
    source = open_dataset("demo").split("test")
    for i in range(12):
        path = folder / "path/to/images" / source.classes[source.labels[i]] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source[i]["image"]).save(path)
    shutil.copy(path, folder / "photo.jpg")
    theirs = torchvision.models.resnext50_32x4d()
    state = {f"module.{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"arch": "resnext50_32x4d", "state_dict": state}, folder / "model_best.pth.tar")
    hub = tmp_path / "hub"
    hub.mkdir()
    rj.weights.write_weights(
        hub / "model.safetensors", {k: v.numpy() for k, v in theirs.state_dict().items()}
    )
    told = {"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    config = {"architecture": "resnext50_32x4d", "num_classes": 1000, "pretrained_cfg": told}
    (hub / "config.json").write_text(json.dumps(config))
    small = {"image_size": 32, "epochs": 1, "train_limit": 16, "val_limit": 16, "batch_size": 8}
    config = rj.TrainConfig(data="demo", model="resnet18", out=folder / "checkpoints/mine", **small)
    rj.fit(config, quiet=True)
    return folder


@pytest.mark.slow
def test_weights_of_readme(readers_folder, torchvision, tmp_path):
    """Every command of the section, and its Python, in processes of their own.

    A server of this machine is in the hub's place. torchvision's weights, which nobody else has, are not
    fetched: the hub's are taken in their place.
    """
    pytest.importorskip("huggingface_hub")
    section = page("README.md").partition("\n## Weights\n")[2].partition("\n## ")[0]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "hf")}
    environment["RESNEXT_JAX_CACHE"] = str(tmp_path / "cache")
    handler = functools.partial(Hub, tmp_path / "hub", set(), [], [])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"

        def python(*arguments: object) -> str:
            done = subprocess.run(
                [sys.executable, *map(str, arguments)],
                cwd=readers_folder,
                env=environment,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, f"{arguments}: {done.stderr}"
            return done.stdout

        shown = {}
        for words in commands("```\n" + blocks(section, "")[0] + "```\n"):
            if "DEFAULT" in words:
                words = ["convert", "a1h_in1k", *words[2:]]
            if words[0] == "train":
                words += ["--image-size", "32", "--epochs", "1", "--batch-size", "4"]
            shown[" ".join(words[:3])] = python("-m", "resnext_jax.cli", *words)
        assert "cc-by-nc-4.0" in shown["models --weights"]
        assert shown["predict checkpoints/imagenet photo.jpg"].count("%") == 5
        assert "resnext50_32x4d" in shown["convert model_best.pth.tar model.safetensors"]
        program = blocks(section, "python")[0].replace("IMAGENET1K_V2", "a1h_in1k")
        before = """
            import numpy as np, torch, resnext_jax as rj
            from port_torchvision import import_torchvision
            torch_model = import_torchvision().models.resnext50_32x4d()
            image = np.zeros((80, 90, 3), np.uint8)
            """
        environment["PYTHONPATH"] += os.pathsep + str(ROOT / "experiments")
        python("-c", f"{textwrap.dedent(before)}\n{program}\nassert pixels.shape == (64, 64, 3)")
    folder = readers_folder / "mine-for-the-hub"
    assert json.loads((folder / "config.json").read_text())["pretrained_cfg"]["license"] == "apache-2.0"
    import torch

    state = torch.load(readers_folder / "mine.pth", weights_only=True)
    torchvision.models.resnet18(num_classes=3).load_state_dict(state, strict=True)
