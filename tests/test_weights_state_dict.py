"""State dicts both ways: names by rule, layouts, strictness, one report, casts and wrappers said."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resnext_jax.models import VARIANTS, ResNet, abstract_model, build_model
from resnext_jax.weights import create_model, load_torch_state_dict, looks_like, to_torch_state_dict
from resnext_jax.weights.state_dict import torch_shapes

Arrays = dict[str, np.ndarray]


def random_arrays(name: str, **options: int) -> Arrays:
    rng = np.random.default_rng(0)
    shapes = torch_shapes(abstract_model(name, **options))
    return {key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}


def loaded(name: str, arrays: dict, num_classes: int = 3, **options: str) -> ResNet:
    model = abstract_model(name, num_classes=num_classes)
    load_torch_state_dict(model, arrays, **options)
    return model


def assert_same_bits(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        assert found[key].dtype == array.dtype
        np.testing.assert_array_equal(found[key].view(np.uint32), array.view(np.uint32), err_msg=key)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnext14_32x4d", "resnext50_32x4d_stride1x1_bias", "resnet50_v2", "resnext29_8x64d"],
)
def test_round_trip_is_bit_identical(name):
    arrays = random_arrays(name, num_classes=3)
    assert_same_bits(to_torch_state_dict(loaded(name, arrays)), arrays)


def test_names_are_torchs():
    names = set(torch_shapes(abstract_model("resnet50", num_classes=3)))
    assert {"conv1.weight", "bn1.running_mean", "bn1.running_var", "bn1.weight", "bn1.bias"} <= names
    assert {"layer3.5.conv3.weight", "layer4.0.downsample.0.weight", "layer4.0.downsample.1.bias"} <= names
    assert {"fc.weight", "fc.bias"} <= names
    assert len(names) == 53 + 53 * 4 + 2  # 53 convolutions, 53 norms, the head


def test_layouts(tiny):
    arrays = random_arrays(tiny, num_classes=3)
    model = loaded(tiny, arrays)
    np.testing.assert_array_equal(
        model.layer1[0].conv2.kernel[2, 1, 3, 5], arrays["layer1.0.conv2.weight"][5, 3, 2, 1]
    )
    np.testing.assert_array_equal(model.fc.kernel[7, 2], arrays["fc.weight"][2, 7])


def test_exported_arrays_are_copies_that_torch_may_write(tiny):
    model = build_model(tiny, num_classes=3)
    state_dict = to_torch_state_dict(model)
    for array in state_dict.values():
        assert array.flags.writeable
        assert array.flags.c_contiguous
        array += 1
    assert not np.array_equal(state_dict["bn1.bias"], model.bn1.bias)


@given(st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_report_names_every_difference(tiny, data):
    """Any mixture of removed, added and reshaped arrays is reported, whole, and changes nothing."""
    arrays = random_arrays(tiny, num_classes=3)
    backbone = sorted(key for key in arrays if not key.startswith("fc."))
    fate = {key: data.draw(st.sampled_from(["keep"] * 6 + ["remove", "reshape"])) for key in backbone}
    changed = {key: a for key, a in arrays.items() if fate.get(key) != "remove"}
    changed |= {key: np.zeros((1, *arrays[key].shape), "f") for key in backbone if fate[key] == "reshape"}
    extra = data.draw(st.lists(st.sampled_from(["extra.weight", "layer9.0.bn1.bias", "x"]), unique=True))
    changed |= {key: np.zeros(2, "f") for key in extra}
    model = build_model(tiny, num_classes=3)
    before = to_torch_state_dict(model)
    counts = {kind: sum(value == kind for value in fate.values()) for kind in ("remove", "reshape")}
    if not extra and not any(counts.values()):
        load_torch_state_dict(model, changed)
        return
    with pytest.raises(ValueError, match="state dict does not fit tiny") as info:
        load_torch_state_dict(model, changed)
    report = str(info.value)
    kinds = {"missing": counts["remove"], "unexpected": len(extra), "wrong shape": counts["reshape"]}
    for kind, count in kinds.items():
        assert (f"{count} {kind}: " in report) == bool(count)
    assert_same_bits(to_torch_state_dict(model), before)


def test_report_gives_name_expected_and_found(tiny):
    arrays = random_arrays(tiny, num_classes=3)
    del arrays["bn1.running_var"]
    arrays["layer1.0.conv2.weight"] = arrays["layer1.0.conv2.weight"].transpose(2, 3, 1, 0)
    arrays["head.bias"] = np.zeros(5, "f")
    with pytest.raises(ValueError, match="does not fit") as info:
        loaded(tiny, arrays)
    report = str(info.value)
    assert "1 missing: bn1.running_var [64]" in report
    assert "1 unexpected: head.bias [5]" in report
    assert "1 wrong shape: layer1.0.conv2.weight expected [32, 8, 3, 3], found [3, 3, 8, 32]" in report
    assert "\n" not in report


def test_counters_and_scalars_are_ignored_and_arrays_are_not(tiny):
    arrays = random_arrays(tiny, num_classes=3)
    beside = {"n_averaged": np.int64(5), "best_acc": np.array(71.5), "epoch": 3}
    loaded(tiny, arrays | {"bn1.num_batches_tracked": np.int64(7)} | beside)
    with pytest.raises(ValueError, match=r"1 unexpected: bn1\.momentum \[1\]"):
        loaded(tiny, arrays | {"bn1.momentum": np.full(1, 0.1, np.float32)})


def test_wrappers_and_prefixes_are_removed_and_said(tiny, caplog):
    arrays = random_arrays(tiny, num_classes=3)
    wrapped = {"state_dict": {f"module.{key}": value for key, value in arrays.items()}, "epoch": 90}
    with caplog.at_level(logging.INFO, "resnext_jax"):
        assert_same_bits(to_torch_state_dict(loaded(tiny, wrapped)), arrays)
    assert "under the key 'state_dict'" in caplog.text
    assert "removed the prefix 'module.'" in caplog.text
    assert_same_bits(to_torch_state_dict(loaded(tiny, {"model": arrays, "optimizer": {}})), arrays)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floats_become_float32_and_that_is_said(tiny, dtype, caplog):
    arrays = {key: array.astype(dtype) for key, array in random_arrays(tiny, num_classes=3).items()}
    with caplog.at_level(logging.INFO, "resnext_jax"):
        model = loaded(tiny, arrays)
    assert f"{len(arrays)} arrays cast from {np.dtype(dtype).name} to float32" in caplog.text
    assert_same_bits(to_torch_state_dict(model), {key: a.astype(np.float32) for key, a in arrays.items()})


def test_torch_tensors_of_every_float(tiny):
    torch = pytest.importorskip("torch")
    arrays = random_arrays(tiny, num_classes=3)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        tensors = {key: torch.tensor(array, dtype=dtype, requires_grad=True) for key, array in arrays.items()}
        expected = {key: tensor.detach().float().numpy() for key, tensor in tensors.items()}
        assert_same_bits(to_torch_state_dict(loaded(tiny, tensors)), expected)


def test_what_is_not_weights_is_refused(tiny):
    arrays = random_arrays(tiny, num_classes=3)
    with pytest.raises(ValueError, match=r"not a dense array of floating point numbers: bn1\.bias \(int8\)"):
        loaded(tiny, arrays | {"bn1.bias": np.zeros(64, np.int8), "epoch": 3})
    with pytest.raises(ValueError, match="expected arrays by name, found a list"):
        loaded(tiny, [1, 2])
    with pytest.raises(ValueError, match="holds no arrays"):
        loaded(tiny, {})


def test_torch_tensors_without_plain_values_are_refused(tiny):
    torch = pytest.importorskip("torch")
    odd = {"a": torch.eye(3).to_sparse(), "b": torch.empty(2, device="meta"), "c": torch.ones(2, dtype=int)}
    with pytest.raises(ValueError, match=r"a \(sparse_coo float32\), b \(empty float32\), c \(int64\)"):
        loaded(tiny, odd)


def test_not_finite_weights_are_warned_of(tiny, caplog):
    arrays = random_arrays(tiny, num_classes=3)
    arrays["layer1.0.bn2.bias"][3] = np.nan
    arrays["fc.bias"][0] = np.inf
    with caplog.at_level(logging.WARNING, "resnext_jax"):
        loaded(tiny, arrays)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "not finite (NaN or infinity): fc.bias, layer1.0.bn2.bias" in caplog.text


def test_new_head_is_left_to_the_model(tiny):
    arrays = random_arrays(tiny, num_classes=1000)
    with pytest.raises(
        ValueError, match=r"fc\.weight expected \[3, 256\], found \[1000, 256\].*new_head=True"
    ):
        loaded(tiny, arrays)
    model = build_model(tiny, num_classes=3)
    head = np.array(model.fc.kernel)
    load_torch_state_dict(model, arrays, head="new")
    np.testing.assert_array_equal(model.fc.kernel, head)
    np.testing.assert_array_equal(model.bn1.mean, arrays["bn1.running_mean"])
    without = {key: array for key, array in arrays.items() if not key.startswith("fc.")}
    load_torch_state_dict(model, without, head="new")
    with pytest.raises(ValueError, match="it has no head; new_head=True"):
        load_torch_state_dict(model, without)
    with pytest.raises(ValueError, match="head='fresh': expected 'strict' or 'new'"):
        load_torch_state_dict(model, arrays, head="fresh")


def test_other_input_channels_are_hinted_at(tiny):
    with pytest.raises(
        ValueError, match=r"conv1\.weight expected \[64, 3, 3, 3\], found \[64, 1, 3, 3\].*in_channels"
    ):
        loaded(tiny, random_arrays(tiny, num_classes=3, in_channels=1))


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet50",
        "resnext50_32x4d",
        "wide_resnet50_2",
        "resnext50_32x4d_stride1x1_bias",
        "resnet50_v2",
        "resnext29_16x64d",
        "resnext101_32x16d",
        "resnext101_32x48d",
    ],
)
def test_variant_is_told_by_names_and_shapes(name):
    shapes = torch_shapes(abstract_model(name, num_classes=5, in_channels=1))
    arrays = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
    found = looks_like(arrays)
    assert found[0] == name
    # Anti-aliasing has no parameters.
    assert {dataclasses.replace(VARIANTS[other], anti_alias=None) for other in found} == {VARIANTS[name]}


def test_weights_of_another_variant_are_recognised():
    with pytest.raises(ValueError, match=r"does not fit resnet34: .*it looks like resnet18 or resnetblur18$"):
        loaded("resnet34", random_arrays("resnet18", num_classes=3))
    with pytest.raises(ValueError, match=r"it looks like no variant that is known here$"):
        loaded("resnet18", {"features.0.weight": np.zeros((64, 3, 3, 3), "f")})


def test_loading_computes_no_initialisation(tiny, tmp_path):
    """With weights, only a new head is drawn: by the given streams, and in the model's own type."""
    from resnext_jax.weights import write_weights

    arrays = random_arrays(tiny, num_classes=7)
    write_weights(tmp_path / "tiny.safetensors", arrays)
    whole = create_model(tiny, num_classes=None, weights=tmp_path / "tiny.safetensors")
    assert_same_bits(to_torch_state_dict(whole), arrays)
    heads = [
        create_model(
            tiny, num_classes=4, weights=tmp_path / "tiny.safetensors", head="new", rngs=nnx.Rngs(seed)
        ).fc.kernel[...]
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(heads[0], heads[1])
    assert not np.array_equal(heads[0], heads[2])
    assert float(jnp.abs(heads[0]).max()) <= 256**-0.5
    low = create_model(
        tiny, num_classes=4, weights=tmp_path / "tiny.safetensors", head="new", dtype=jnp.bfloat16
    )
    assert low.stem(jnp.zeros((1, 8, 8, 3))).dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(low))} == {jnp.dtype("float32")}
    assert create_model(tiny).fc.out_features == 1000
