"""The lowering `im2col`: a convolution of one group as the product of all windows with the kernel.

Only for images smaller than the window (the last stages of a small input): there XLA's own way takes 40 times
as long for 2x2 pixels of 512 channels.
"""

import jax
import jax.numpy as jnp

from resnext_jax.ops.conv.matrix import dot, pad, pixels
from resnext_jax.ops.conv.spec import ConvSpec


def forward(x: jax.Array, w: jax.Array, *, spec: ConvSpec) -> jax.Array:
    """y [N, H', W', O] of x [N, H, W, C] and w [kh, kw, C, O]."""
    kh, kw, _, outputs = spec.kernel_shape
    _, height, width, _ = spec.output_shape
    x = pad(x, spec)

    def under(i: int, j: int) -> jax.Array:
        """The pixels that the windows meet under row i and column j of the kernel."""
        (top, left), (down, right) = (i * spec.dilation[0], j * spec.dilation[1]), spec.strides
        return x[:, top : top + (height - 1) * down + 1 : down, left : left + (width - 1) * right + 1 : right]

    windows = jnp.concatenate([under(i, j) for i in range(kh) for j in range(kw)], -1)  # [N, H', W', kh kw C]
    return dot(pixels(windows), w.reshape(-1, outputs), (1, 0), spec).reshape(spec.output_shape)


def input_grad(g: jax.Array, w: jax.Array, *, spec: ConvSpec) -> jax.Array:
    """dx [N, H, W, C] of g [N, H', W', O] and w."""
    x = jax.typeof(g).update(shape=spec.input_shape)
    return jax.linear_transpose(lambda x: forward(x, w, spec=spec), x)(g)[0]
