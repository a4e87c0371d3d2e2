"""What training, evaluation, features, summaries and exports ask of a network."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


class Network(nnx.Module):
    """A classifier in stages: a stem, blocks, a mean over the pixels, and a linear head.

    A network of one's own extends it: it sets `in_channels`, `stages` and `fc`, has an `nnx.List` of blocks
    for each stage, and defines `stem`; it replaces other methods where it differs. Its arrays are `nnx.Param`
    and `nnx.BatchStat`, and only those of `fc` depend on the number of classes.

    Attributes:
        in_channels: channels of the images.
        stages: names of the stages, in order.
        fc: the head; None: the network gives pooled features.
        preprocessing: how images are prepared for the weights, if these say it.
        remat: keep only the blocks' inputs for the backward pass, which computes each block once more.
    """

    in_channels: int
    fc: nnx.Linear | None
    preprocessing: Any = None
    remat: bool = False

    def __call__(self, images: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Classify normalised images.

        Args:
            images: float [N, H, W, in_channels], normalised as in training.
            keys: random keys [N], one for each image; what is random in training (`drop_path`) needs them.

        Returns:
            Logits, float32 [N, num_classes]; without a head the pooled features.

        Raises:
            BadInput: the images are not [N, H, W, in_channels].
        """
        return self.head(self.features(images, keys)["pool"])

    def features(self, images: jax.Array, keys: jax.Array | None = None) -> dict[str, jax.Array]:
        """Output of every stage: {"stem", "layer1", ..., "pool"}, [N, H, W, C] each, "pool" [N, C]."""
        features = {"stem": self.stem(images)}
        x = features["stem"]
        for name in self.stages:
            x = features[name] = self.stage(name, x, keys)
        features["pool"] = self.pool(x)
        return features

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages, in order."""
        raise NotImplementedError(f"{type(self).__name__} names no stages")

    @property
    def num_classes(self) -> int:
        """Outputs of the head; 0 without one."""
        return 0 if self.fc is None else self.fc.out_features

    def stem(self, images: jax.Array) -> jax.Array:
        """What comes before the first stage; [N, H, W, in_channels] -> [N, H', W', C]."""
        raise NotImplementedError(f"{type(self).__name__} defines no stem")

    def stage(self, name: str, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Blocks of one stage in turn."""
        call = nnx.remat(_call) if self.remat else _call
        for block in getattr(self, name):
            x = call(block, x) if keys is None else call(block, x, keys)
        return x

    def pool(self, x: jax.Array) -> jax.Array:
        """Mean over the pixels of the last stage's output, [N, H, W, C] -> float32 [N, C]."""
        return jnp.mean(x, (1, 2), dtype=jnp.float32)

    def head(self, pooled: jax.Array) -> jax.Array:
        """Logits, float32 [N, num_classes], of pooled features [N, C]."""
        return pooled if self.fc is None else self.fc(pooled).astype(jnp.float32)


def _call(block: Any, *arguments: jax.Array) -> jax.Array:
    return block(*arguments)
