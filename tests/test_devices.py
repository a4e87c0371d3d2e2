"""A run on four simulated devices gives the loss curve of a run on one."""

from dataclasses import replace

import pytest

import resnext_jax as rj


def test_loss_curve_does_not_depend_on_the_number_of_devices(small_run, tmp_path):
    config = replace(small_run, batch_size=8, epochs=4, lr=0.01, flip=True, pad_crop=2, sync_bn=True)
    curves = []
    for devices in (1, 4):
        run = replace(config, devices=devices, out=tmp_path / str(devices))
        curves.append([(row["train_loss"], row["val_loss"]) for row in rj.fit(run, quiet=True).history])
    assert curves[0][0][0] != curves[0][3][0], "the run does not train"
    for one, four in zip(*curves, strict=True):
        assert one == pytest.approx(four, rel=2e-4)
