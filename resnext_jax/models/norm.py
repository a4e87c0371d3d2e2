"""Norms with torch's rules, and the activations after them."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer

from resnext_jax import ops
from resnext_jax.errors import BadInput
from resnext_jax.models.keys import Keys

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nnx.relu,
    "leaky_relu": nnx.leaky_relu,  # slope 0.01, as in torch
    "silu": nnx.silu,
    "gelu": partial(nnx.gelu, approximate=False),
    "hard_swish": nnx.hard_swish,
    "mish": jax.nn.mish,
}


class BatchNorm(nnx.BatchNorm):
    """Batch normalisation over [N, H, W], per channel, with torch's rules.

    It differs from `flax.nnx.BatchNorm` in three ways: the running variance is updated with the unbiased
    batch variance (torch.nn.BatchNorm2d), the batch variance is computed in two passes (the one-pass form
    loses everything to cancellation where the mean is large), and statistics are float32 whatever the
    compute type is.

    With `axis_name` the batch statistics are those of the global batch across the devices of that mapped
    axis (torch.nn.SyncBatchNorm); without it each device normalises with its own examples.

    Args:
        num_features: channels C.
        momentum: share of the old running value that an update keeps; 0.9 is torch's 0.1.
        epsilon: added to the variance.
        dtype: type of the output; None keeps the input's.
        axis_name: mapped axis to synchronise over, or None.
        scale_init: initialiser of the scale (ones; zeros for the last norm of a zero-initialised branch).
        rngs: random streams.

    Example:
        >>> norm = BatchNorm(4, rngs=nnx.Rngs(0))
        >>> norm(jnp.ones((2, 3, 3, 4))).shape, norm.mean.shape
        ((2, 3, 3, 4), (4,))
    """

    def __init__(
        self,
        num_features: int,
        *,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        dtype: jnp.dtype | None = None,
        axis_name: str | None = None,
        scale_init: jax.nn.initializers.Initializer = jax.nn.initializers.ones,
        rngs: nnx.Rngs | Keys,
    ):
        super().__init__(
            num_features,
            momentum=momentum,
            epsilon=epsilon,
            dtype=dtype,
            axis_name=axis_name,
            scale_init=scale_init,
            rngs=rngs,
        )

    # Without nnx's `mask`, which torch does not have.
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        x: jax.Array,
        use_running_average: bool | None = None,
        *,
        act: str | None = None,
        left_out: jax.Array | None = None,
    ) -> jax.Array:
        """Normalise [N, H, W, C], and activate by `act` if given; in training move the running statistics.

        `left_out` [C], in training: was not added to x, as the batch's own mean would take it away again;
        the running mean has it.
        """
        use_running = self.use_running_average if use_running_average is None else use_running_average
        assert self.scale is not None
        assert self.bias is not None  # both are always made
        scale, bias = self.scale[...], self.bias[...]
        relu = act == "relu"  # which the operator does in the same pass over x
        if use_running:
            assert left_out is None
            factor = jax.lax.rsqrt(self.var[...] + self.epsilon) * scale
            y = (x.astype(jnp.float32) - self.mean[...]) * factor + bias
            y = nnx.relu(y) if relu else y
        else:
            y, mean, var = ops.batch_norm(x, scale, bias, self.epsilon, self.axis_name, relu)
            mean = mean if left_out is None else mean + left_out
            self.follow(mean, var, x.size // x.shape[-1])
        y = y.astype(self.dtype or x.dtype)
        return y if act is None or relu else ACTIVATIONS[act](y)

    def follow(self, mean: jax.Array, var: jax.Array, count: int) -> None:
        """Move the running statistics towards a batch's.

        Args:
            mean, var: of the batch, [C]; the variance is biased.
            count: numbers that each channel has on this device.
        """
        count *= 1 if self.axis_name is None else jax.lax.axis_size(self.axis_name)
        unbiased = var * (count / max(count - 1, 1))
        # Not by index: jax 0.10 then takes longer under a trace, the longer the program is.
        self.mean.set_value(self.momentum * self.mean[...] + (1 - self.momentum) * mean)
        self.var.set_value(self.momentum * self.var[...] + (1 - self.momentum) * unbiased)

    def scale_and_shift(self) -> tuple[jax.Array, jax.Array]:
        """What the norm is in evaluation: x scale + shift, [C] each, float32."""
        assert self.scale is not None
        assert self.bias is not None
        scale = jax.lax.rsqrt(self.var[...] + self.epsilon) * self.scale[...]
        return scale, self.bias[...] - scale * self.mean[...]


class GroupNorm(nnx.GroupNorm):
    """Group normalisation (Wu and He 2018, arXiv 1803.08494): each image by itself, in 32 groups of channels.

    It has no running statistics: training and evaluation are the same, whatever the batch.

    Args:
        num_features: channels C, a multiple of 32.
        epsilon: added to the variance.
        dtype: type of the output; None keeps the input's.
        scale_init: initialiser of the scale.
        rngs: random streams.

    Raises:
        BadInput: channels that 32 groups cannot share.
    """

    def __init__(
        self,
        num_features: int,
        *,
        epsilon: float = 1e-5,
        dtype: jnp.dtype | None = None,
        scale_init: Initializer = jax.nn.initializers.ones,
        rngs: nnx.Rngs | Keys,
    ):
        if num_features % 32:
            raise BadInput(f"norm='group' of {num_features} channels: expected a multiple of its 32 groups")
        super().__init__(
            num_features,
            num_groups=32,
            epsilon=epsilon,
            dtype=dtype,
            use_fast_variance=False,
            scale_init=scale_init,
            rngs=rngs,
        )

    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None, act: str | None = None) -> jax.Array:
        """Normalise [N, H, W, C], and activate by `act` if given; `mask` is nnx.GroupNorm's."""
        y = super().__call__(x, mask=mask)
        return y if act is None else ACTIVATIONS[act](y)
