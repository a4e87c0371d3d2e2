"""The benchmark measures what it says, on a tiny network."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from resnext_jax import models
from resnext_jax.benchmark import BenchmarkOptions, format_benchmark, run_benchmark
from resnext_jax.benchmark.cases import LayerCase, StepCase, count_convolutions
from resnext_jax.benchmark.in_torch import torch_resnet
from resnext_jax.benchmark.limit import Rates, least_seconds
from resnext_jax.errors import BadInput, MissingPackage

TINY = models.ResNetConfig("bottleneck", (1, 1), groups=4, width_per_group=4, stem="cifar")


def test_step_of_every_implementation():
    pytest.importorskip("torch")
    options = BenchmarkOptions(model="tiny", batch_size=2, image_size=16, against=("torch", "flax"), rounds=3)
    result = run_benchmark(options, TINY)
    (row,) = json.loads(json.dumps(result))["rows"]
    assert set(row["implementations"]) == {"ours", "torch", "flax"}
    for name, figures in row["implementations"].items():
        assert figures["median_ms"] >= figures["min_ms"] > 0
        np.testing.assert_allclose(figures["images_per_second"], 2000 / figures["min_ms"])
        assert figures["peak_memory_mib"] > 0
        assert (figures["compile_seconds"] > 0) is (name != "torch")
    ours, torch = (row["implementations"][name]["min_ms"] for name in ("ours", "torch"))
    np.testing.assert_allclose(row["ratio"]["torch"], ours / torch)
    table = format_benchmark(result)
    assert 0 < row["limit_ms"] < ours
    assert all(word in table for word in ("tiny train, batch 2, 16 px", "ours", "torch", "flax"))


@pytest.mark.slow  # torch compiles for a minute
def test_bfloat16_and_compiled_torch():
    pytest.importorskip("torch")
    against = ("torch", "torch-compiled")
    options = {"batch_size": 2, "image_size": 16, "dtype": "bfloat16", "against": against, "rounds": 3}
    result = run_benchmark(BenchmarkOptions(**options), TINY)
    (row,) = result["rows"]
    assert row["implementations"]["torch-compiled"]["compile_seconds"] > 0
    assert set(row["ratio"]) == {*against}
    assert "16 px, bfloat16" in format_benchmark(result)


def test_limit_is_arithmetic_or_memory():
    """A 1x1 convolution of few channels is bound by memory, a 3x3 one of many by arithmetic."""
    rates = Rates(multiply_adds=1e9, memory_bytes=1e9)
    thin = LayerCase((1, 8, 8, 4), (1, 1, 4, 4), (1, 1), ((0, 0), (0, 0)), 1, train=False)
    assert least_seconds(thin, rates) == pytest.approx(4 * (256 + 16 + 256) / 1e9)
    wide = LayerCase((1, 8, 8, 64), (3, 3, 64, 64), (1, 1), ((1, 1), (1, 1)), 1, train=True)
    assert least_seconds(wide, rates) == pytest.approx(3 * 64 * 64 * 9 * 64 / 1e9)
    step = StepCase(TINY, train=True, batch_size=2, image_size=16)
    counts = count_convolutions(step)
    whole = sum(count * least_seconds(layer, rates) for layer, count in counts.items())
    stem = least_seconds(next(iter(counts)), rates)
    assert least_seconds(step, rates) == pytest.approx(whole - stem / 3)  # images need no gradient


def test_layers_are_the_models_convolutions():
    counts = count_convolutions(StepCase(TINY, train=True, batch_size=2, image_size=16))
    convs = [
        module
        for _, module in nnx.iter_graph(models.ResNet(TINY, rngs=nnx.Rngs(0)))
        if isinstance(module, nnx.Conv)
    ]
    assert sum(counts.values()) == len(convs)
    assert {case.kernel_shape for case in counts} == {conv.kernel[...].shape for conv in convs}
    assert "3x3 16->16 /4 at 16x16" in {case.name for case in counts}
    options = BenchmarkOptions(mode="eval", batch_size=2, image_size=16, layers=True, rounds=3)
    rows = run_benchmark(options, TINY)["rows"]
    assert {row["name"]: row["count"] for row in rows} == {case.name: count for case, count in counts.items()}


@pytest.mark.parametrize("name", ["resnext50_32x4d", "resnext29_8x64d"])
def test_torch_runs_the_same_network(name):
    pytest.importorskip("torch")
    config = models.get_config(name)
    abstract = nnx.eval_shape(lambda: models.ResNet(config, rngs=nnx.Rngs(0)))
    expected = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(abstract, nnx.Param)))
    assert sum(p.numel() for p in torch_resnet(config).parameters()) == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [({"rounds": 0}, "rounds=0"), ({"batch_size": -1}, "batch_size=-1"), ({"image_size": 0}, "image_size=0")],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(BadInput, match=words):
        run_benchmark(BenchmarkOptions(**options))


def test_a_package_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match="pip install jaxnn"):
        run_benchmark(BenchmarkOptions(model="resnet18", against=("jaxnn",)))
    with pytest.raises(BadInput, match="expected flax"):
        run_benchmark(BenchmarkOptions(model="resnet18", layers=True, against=("jaxnn",)))


def test_models_that_torch_has_not_are_refused():
    pytest.importorskip("torch")
    with pytest.raises(ValueError, match="against torch"):
        run_benchmark(BenchmarkOptions(model="resnet18", against=("torch",)))
    with pytest.raises(ValueError, match="unknown model"):
        run_benchmark(BenchmarkOptions(model="resnext51"))
