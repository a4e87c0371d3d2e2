"""Arrays for the operators' tests, and how they are compared."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st


def normal(shape, seed=0, dtype="float32"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def assert_close(actual, expected, tolerance=2e-5):
    """Same shapes and types, and differences small beside the largest value."""
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * (1 + np.abs(b).max()))


def convolve_in_numpy(x, w, g, strides, padding, dilation, groups):
    """y, dx and dw in float64, tap by tap; g is the cotangent of y."""
    x, w, g = (np.asarray(a, np.float64) for a in (x, w, g))
    kh, kw, inputs, outputs = w.shape
    n, height, width, _ = g.shape
    by_group = (groups, -1)
    padded = np.pad(x, ((0, 0), *padding, (0, 0))).reshape(
        n, x.shape[1] + sum(padding[0]), -1, groups, inputs
    )
    g = g.reshape(n, height, width, *by_group)
    y, dx, dw = (
        np.zeros_like(g),
        np.zeros_like(padded),
        np.zeros((kh, kw, inputs, *by_group[:1], outputs // groups)),
    )
    for i, j in np.ndindex(kh, kw):
        rows, columns = (
            slice(k * d, k * d + (size - 1) * s + 1, s)
            for k, d, size, s in zip((i, j), dilation, (height, width), strides, strict=True)
        )
        tap = w[i, j].reshape(inputs, groups, -1)
        y += np.einsum("nhwgc,cgo->nhwgo", padded[:, rows, columns], tap)
        dx[:, rows, columns] += np.einsum("nhwgo,cgo->nhwgc", g, tap)
        dw[i, j] += np.einsum("nhwgc,nhwgo->cgo", padded[:, rows, columns], g)
    (top, _), (left, _) = padding
    dx = dx[:, top : top + x.shape[1], left : left + x.shape[2]]
    return y.reshape(*y.shape[:3], -1), dx.reshape(x.shape), dw.reshape(w.shape)


@st.composite
def convolutions(draw):
    """Shapes of operands, and the window: channels that fill no step, groups that share one, windows that
    meet no pixel."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 8, 32]))
    inputs, outputs = (
        draw(st.sampled_from([1, 2, 3, 4, 8, 14, 16] if groups > 3 else [1, 3, 20, 32, 33, 64, 100, 288]))
        for _ in range(2)
    )
    outputs = draw(st.sampled_from([inputs, outputs]))
    window = draw(st.sampled_from([(1, 1), (1, 1), (3, 3), (3, 3), (1, 5), (4, 2), (7, 7)]))
    dilation, strides = (draw(st.tuples(st.integers(1, 2), st.integers(1, 3))) for _ in range(2))
    padding, size, result = [], [], []
    for k, step, stride in zip(window, dilation, strides, strict=True):
        low, high = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        length = draw(st.integers(1, 24))
        high += max(0, (k - 1) * step + 1 - length - low - high)  # for one window to fit
        padding.append((low, high)), size.append(length)
        result.append((length + low + high - (k - 1) * step - 1) // stride + 1)
    images = draw(st.sampled_from([1, 2, 5]))
    shapes = (
        (images, *size, groups * inputs),
        (*window, inputs, groups * outputs),
        (images, *result, groups * outputs),
    )
    return *shapes, strides, tuple(padding), dilation, groups
