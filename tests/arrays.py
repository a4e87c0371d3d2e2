"""Arrays for the operators' tests, and how they are compared."""

import jax
import jax.numpy as jnp
import numpy as np


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
