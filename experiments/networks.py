"""The networks of two experiments' sources, to the last bias, registered as networks of one's own are.

    python experiments/cifar10_resnet18.py --exact ...         # takes resnet18_96px
    python experiments/folders_resnext50_full.py --exact ...   # takes wide_resnet50_2_keras

The commands of the package know them where this module is named and found:

    RESNEXT_JAX_MODELS=networks PYTHONPATH=experiments resnext-jax evaluate RUN
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import nnx

import resnext_jax as rj
from resnext_jax import ops
from resnext_jax.errors import BadInput
from resnext_jax.models import BatchNorm, Layers, Network, ResNet, get_config, linear_head

POOLED = 3  # pixels a side


class Block96px(nnx.Module):
    """Two 3x3 convolutions; [N, H, W, inputs] -> [N, H/stride, W/stride, outputs].

    Unlike ResNet's it activates what it adds to its shortcut, and where the shortcut changes size it is a
    convolution with a bias and no norm.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        stride: of the first convolution.
        layers: of the network.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, layers: Layers):
        self.conv1, self.bn1 = layers.conv(inputs, outputs, 3, stride), layers.norm(outputs)
        self.conv2, self.bn2 = layers.conv(outputs, outputs, 3), layers.norm(outputs)
        changes = inputs != outputs
        self.downsample = nnx.List([layers.conv(inputs, outputs, 1, stride, bias=True)]) if changes else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.bn1(self.conv1(x), act="relu")
        y = self.bn2(self.conv2(y), act="relu")
        return nnx.relu(y + (x if self.downsample is None else self.downsample[0](x)))


class ResNet18For96px(Network):
    """The ResNet-18 of the CIFAR-10 experiment's source, for images of 96 px.

    Its stem is an unpadded 7x7 convolution with a bias, its blocks are `Block96px`, and it ends in a 3x3 mean
    with stride 3 (`AvgPool2d(3)`), which at 96 px are all pixels. Two readings give its 11,180,810 parameters
    at ten classes: this one, with biases where no 3x3 convolution is; and one with biases everywhere but a
    single norm in each block.

    Args:
        num_classes: outputs of the head; 0: no head, the network gives pooled features.
        in_channels: channels of the images.
        dtype: compute type; parameters and statistics stay float32.
        bn_axis_name: mapped axis over which batch statistics are synchronised, or None.
        init: as of `ResNet`; the source's is "torch".
        rngs: random streams for the initialisation.

    Example:
        >>> model = rj.create_model("resnet18_96px", num_classes=10)
        >>> model.eval()
        >>> model(jnp.zeros((1, 96, 96, 3))).shape
        (1, 10)
    """

    stages = ("layer1", "layer2", "layer3", "layer4")

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        *,
        dtype: jnp.dtype = jnp.float32,
        bn_axis_name: str | None = None,
        init: str = "torch",
        rngs: nnx.Rngs,
    ):
        layers = Layers(
            config=get_config("resnet18"), rngs=rngs, dtype=dtype, bn_axis_name=bn_axis_name, init=init
        )
        self.in_channels, self.dtype = in_channels, dtype
        self.conv1, self.bn1 = layers.conv(in_channels, 64, 7, 2, bias=True), layers.norm(64)
        self.conv1.padding = "VALID"
        inputs = 64
        for i, name in enumerate(self.stages):
            outputs, stride = 64 * 2**i, 1 if i == 0 else 2
            first = Block96px(inputs, outputs, stride, layers)
            setattr(self, name, nnx.List([first, Block96px(outputs, outputs, 1, layers)]))
            inputs = outputs
        self.fc = linear_head(inputs, num_classes, dtype=dtype, rngs=rngs) if num_classes else None

    def stem(self, images: jax.Array) -> jax.Array:
        """[N, H, W, in_channels] -> [N, H', W', 64]; 23 pixels a side of 96."""
        x = self.bn1(self.conv1(images.astype(self.dtype)), act="relu")
        return ops.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))

    def pool(self, x: jax.Array) -> jax.Array:
        """Mean of the first 3x3 pixels, the only whole window; [N, H, W, 512] -> float32 [N, 512]."""
        height, width = x.shape[1:3]
        if not all(POOLED <= side < 2 * POOLED for side in (height, width)):
            raise BadInput(
                f"resnet18_96px: {height} x {width} pixels are left for its one window of 3 x 3; expected "
                "image_size=96 (71 to 166)"
            )
        return super().pool(jax.lax.slice(x, (0, 0, 0, 0), (x.shape[0], POOLED, POOLED, x.shape[3])))


class KerasWideResNet50(ResNet):
    """wide_resnet50_2 as Keras computes it: the network of the folders experiment's source.

    Convolutions and the stem's pooling are padded "same": windows of stride 2 lie a pixel further right and
    down than torch's where sides are even. Norms have epsilon 1.001e-5 and momentum 0.99, kernels start from
    Glorot's uniform distribution (2010). Names and shapes are wide_resnet50_2's, whose weights fit.

    Args:
        num_classes: outputs of the head; 0: no head, the network gives pooled features.
        in_channels: channels of the images.
        dtype: compute type; parameters and statistics stay float32.
        bn_axis_name: mapped axis over which batch statistics are synchronised, or None.
        rngs: random streams for the initialisation.

    Example:
        >>> model = rj.create_model("wide_resnet50_2_keras", num_classes=2)
        >>> model.bn1.momentum
        0.99
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        dtype: jnp.dtype = jnp.float32,
        bn_axis_name: str | None = None,
        rngs: nnx.Rngs,
    ):
        config = replace(get_config("wide_resnet50_2"), epsilon=1.001e-5)
        super().__init__(config, num_classes, in_channels, dtype=dtype, bn_axis_name=bn_axis_name, rngs=rngs)
        glorot = nnx.initializers.glorot_uniform()
        for _, module in nnx.iter_modules(self):
            if isinstance(module, nnx.Conv):
                module.padding = "SAME"
            if isinstance(module, BatchNorm):
                module.momentum = 0.99
            if isinstance(module, nnx.Conv | nnx.Linear):
                module.kernel.set_value(glorot(rngs.params(), module.kernel.shape, jnp.float32))
        if self.fc is not None:
            self.fc.bias.set_value(jnp.zeros(num_classes))

    def stem_pool(self, x: jax.Array) -> jax.Array:
        """Maximum of 3x3 pixels with stride 2, padded "same"."""
        pads = jax.lax.padtype_to_pads(x.shape[1:3], (3, 3), (2, 2), "SAME")
        return ops.max_pool(x, (3, 3), (2, 2), pads)


RESNET18_96PX, WIDE_RESNET50_2_KERAS = "resnet18_96px", "wide_resnet50_2_keras"
rj.register_model(RESNET18_96PX, ResNet18For96px)
rj.register_model(WIDE_RESNET50_2_KERAS, KerasWideResNet50)
