"""A ResNet's feature maps, as detectors and segmenters take them."""

import math
from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from resnext_jax.errors import BadInput
from resnext_jax.models.resnet import ResNet


class FeatureInfo(list[dict[str, Any]]):
    """What each feature map is, in timm's terms: {"num_chs": 256, "reduction": 4, "module": "layer1"}."""

    def channels(self) -> list[int]:
        """Channels of each map."""
        return [each["num_chs"] for each in self]

    def reduction(self) -> list[int]:
        """By how much each map is smaller than the image, along either side."""
        return [each["reduction"] for each in self]

    def module_name(self) -> list[str]:
        """Where each map comes from."""
        return [each["module"] for each in self]


class FeatureExtractor(nnx.Module):
    """Feature maps of a ResNet, from fine to coarse; what comes after the last of them is left out.

    Args:
        model: whose layers are taken, not copied.
        out_indices: which maps: 0 is the stem's before its pooling, 1 the first stage's, and so on; negative
            ones count from the last.

    Raises:
        BadInput: an index out of range, or a network that is no ResNet.

    Example:
        >>> import jax.numpy as jnp, resnext_jax as rj
        >>> model = rj.create_model("resnet18", features_only=True, out_indices=(2, 4))
        >>> model.eval()
        >>> [x.shape for x in model(jnp.ones((1, 64, 64, 3)))]
        [(1, 8, 8, 128), (1, 2, 2, 512)]
        >>> model.feature_info.reduction()
        [8, 32]
    """

    def __init__(self, model: ResNet, out_indices: Sequence[int] | None = None):
        if not isinstance(model, ResNet):
            raise BadInput(f"features_only=True: expected a ResNet, found a {type(model).__name__}")
        count = 1 + len(model.stages)
        indices = range(count) if out_indices is None else out_indices
        bad = [index for index in indices if not -count <= index < count]
        if bad or not indices:
            raise BadInput(f"out_indices={tuple(indices)}: expected numbers from 0 to {count - 1}")
        self.out_indices = tuple(sorted({index % count for index in indices}))
        self.backbone = model
        known = _feature_info(model)
        self._info = tuple(tuple(known[index].items()) for index in self.out_indices)
        model.fc = model.norm = None
        for name in model.stages[self.out_indices[-1] :]:
            setattr(model, name, None)

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels, reduction and origin of each map."""
        return FeatureInfo(map(dict, self._info))

    def __call__(self, images: jax.Array, keys: jax.Array | None = None) -> list[jax.Array]:
        """Feature maps of normalised images [N, H, W, in_channels]: [N, H', W', C] each.

        Args:
            images: float, normalised as in training.
            keys: random keys [N], needed in training with `drop_path`.
        """
        x = self.backbone.stem_conv(images)
        maps = [x]
        for name in self.backbone.stages[: self.out_indices[-1]]:
            x = self.backbone.stem_pool(x) if len(maps) == 1 else x
            x = self.backbone.stage(name, x, keys)
            maps.append(x)
        return [maps[index] for index in self.out_indices]


def _feature_info(model: ResNet) -> list[dict[str, Any]]:
    """Of every map of a ResNet."""
    reduction = 1 if model.config.stem == "cifar" else 2
    stem = model.conv1[-1] if isinstance(model.conv1, nnx.List) else model.conv1
    found = [{"num_chs": stem.out_features, "reduction": reduction, "module": "act1"}]
    reduction *= 1 if model.config.stem == "cifar" else 2
    for stage, name in enumerate(model.stages):
        reduction *= math.prod(model.config.strides(stage))
        outputs = model.config.channels(stage, 0).outputs
        found.append({"num_chs": outputs, "reduction": reduction, "module": name})
    return found
