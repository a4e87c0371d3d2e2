"""The convolution that the operators and their lowerings speak of."""

from dataclasses import dataclass, replace
from typing import Literal

import jax

DIMENSION_NUMBERS = ("NHWC", "HWIO", "NHWC")

Operator = Literal["forward", "input_grad", "kernel_grad"]


@dataclass(frozen=True)
class ConvSpec:
    """What the three operators of one convolution have in common.

    Args:
        input_shape: [N, H, W, C].
        kernel_shape: [kh, kw, C / groups, O].
        output_shape: [N, H', W', O].
        strides, padding, dilation: of the window, as in `jax.lax.conv_general_dilated`.
        groups: feature groups.
        precision: as in `jax.lax`.
    """

    input_shape: tuple[int, ...]
    kernel_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]
    groups: int
    precision: jax.lax.PrecisionLike

    @property
    def group_inputs(self) -> int:
        """Input channels of a group."""
        return self.kernel_shape[2]

    @property
    def group_outputs(self) -> int:
        """Output channels of a group."""
        return self.kernel_shape[3] // self.groups

    def merged_groups(self, channels: int) -> int:
        """How many groups make a block: the most that divide `groups` and have at most `channels` channels.

        One, if two groups have more.
        """
        widest = max(self.group_inputs, self.group_outputs)
        counts = range(1, self.groups + 1)
        return max(n for n in counts if n == 1 or (self.groups % n == 0 and n * widest <= channels))

    def with_batch(self, batch: int) -> "ConvSpec":
        """The same convolution of another number of images."""
        return replace(
            self,
            input_shape=(batch, *self.input_shape[1:]),
            output_shape=(batch, *self.output_shape[1:]),
        )
