"""Shared fixtures: simulated devices, image folders, torchvision, real data where it is present."""

import importlib.util
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

# Before jax starts: four CPU devices, so that data-parallel tests run everywhere.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import numpy as np
import pytest
from PIL import Image

# Compiling takes as long as it takes; a busy machine is no failure.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


def pytest_configure(config: pytest.Config) -> None:
    """Keep compiled programs for the later tests of a session, its other workers, and processes of their own.

    Many runs differ in data and settings alone. The user's cache is neither read nor filled.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="resnext-jax-tests-")
        config.add_cleanup(partial(shutil.rmtree, folder, ignore_errors=True))
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


@pytest.fixture(autouse=True)
def _unchanged_log() -> Iterator[None]:
    """The command takes over the package's log; the next test gets it as it was."""
    log = logging.getLogger("resnext_jax")
    before = log.handlers, log.level, log.propagate
    yield
    log.handlers, log.level, log.propagate = before


@pytest.fixture(scope="session")
def shared_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Links to real data sets beside the checkout: CIFAR-10 as TFDS, monkeypox images."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"real data sets are not at {path}")
    linked = tmp_path_factory.mktemp("shared_data")
    for file in (path / "tfds").rglob("*"):
        if file.is_file() and not file.name.startswith("resnext_jax-"):
            place = linked / file.relative_to(path)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(file)
    (linked / "monkeypox").symlink_to(path / "monkeypox")
    return linked


@pytest.fixture(scope="session")
def torchvision() -> ModuleType:
    pytest.importorskip("torch")
    from port_torchvision import import_torchvision

    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    return import_torchvision()


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Two classes of ten 40x36 JPEGs each: bright-left against bright-right."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 160, 36, dtype=np.float32)[None, :, None]
    for name, shade in (("left", ramp[:, ::-1]), ("right", ramp)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(10):
            noise = rng.uniform(0, 90, size=(40, 36, 3))
            image = Image.fromarray((shade + noise).astype(np.uint8))
            image.save(tmp_path / "images" / name / f"P{i // 2:02d}_{i % 2}.jpg")
    return tmp_path / "images"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a model that compiles in a second: one block of cardinality 4."""
    from resnext_jax.models import VARIANTS, ResNetConfig

    monkeypatch.setitem(VARIANTS, "tiny", ResNetConfig("bottleneck", (1,), 4, 8, stem="cifar"))
    return "tiny"


@pytest.fixture
def small_run(tiny: str, image_folder: Path, tmp_path: Path):
    """Configuration of a run that trains in a second, on one device."""
    from resnext_jax import TrainConfig

    options = {"image_size": 16, "batch_size": 4, "lr": 0.02, "devices": 1}
    return TrainConfig(data=str(image_folder), model=tiny, out=tmp_path / "run", **options)
