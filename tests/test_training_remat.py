"""Recomputing blocks in the backward pass: less is kept, and no number changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import KINDS, photos

import resnext_jax as rj
from resnext_jax.data import Preprocessing
from resnext_jax.models import build_model, merge_model, split_model
from resnext_jax.training import Loss, prepare_step

CLASSES = 3


def loss_of(kind: str, remat: bool):
    """Loss as a function of the parameters, with the batch statistics that it leaves; and the parameters."""
    config = rj.TrainConfig(model="resnet18", drop_path=0.5, remat=remat)
    model = build_model(KINDS[kind], num_classes=CLASSES, drop_path=config.drop_path)
    prepare_step(config, model, Preprocessing().normalize, Loss(CLASSES), 10)
    graphdef, params, batch_stats = split_model(model)
    images = jnp.asarray(photos(8), jnp.float32) / 128 - 1
    keys = jax.random.split(jax.random.key(0), len(images))

    def loss(params):
        model = merge_model(graphdef, params, batch_stats)
        logits = model(images, keys)
        return jnp.mean(jnp.square(logits - jnp.arange(CLASSES))), split_model(model)[2]

    return loss, params


@pytest.mark.parametrize("kind", ["bottleneck"])
def test_less_is_kept_and_no_number_changes(kind):
    kept, results = [], []
    for remat in (False, True):
        loss, params = loss_of(kind, remat)
        backward = jax.eval_shape(lambda params, loss=loss: jax.vjp(loss, params, has_aux=True)[1], params)
        arrays = jax.tree.leaves(backward)
        kept.append(sum(array.size * array.dtype.itemsize for array in arrays if array.ndim == 4))
        results.append(jax.jit(jax.value_and_grad(loss, has_aux=True))(params))
    assert kept[1] < 0.6 * kept[0]
    for plain, recomputed in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(plain, recomputed, rtol=1e-4, atol=1e-6)
