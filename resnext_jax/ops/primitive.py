"""Primitives that stand for several operations, which a platform may compute in a way of its own."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir


def define(
    name: str, parts: Callable[..., Any], *, static: str | tuple[str, ...], multiple_results: bool = False
) -> Primitive:
    """A primitive that computes what a function does: on every platform, under vmap, and outside of jit.

    Its abstract evaluation and derivatives are the caller's.

    Args:
        name: its name in a jaxpr.
        parts: the function, of arrays, and of parameters by name.
        static: names of the parameters.
        multiple_results: whether the function gives a sequence of arrays.
    """
    primitive = Primitive(name)
    primitive.multiple_results = multiple_results
    # Outside of jit, each call is compiled by itself and cached by its parameters.
    primitive.def_impl(
        jax.jit(lambda *operands, **params: primitive.bind(*operands, **params), static_argnames=static)
    )

    def batch(operands: Sequence[jax.Array], axes: Sequence[int | None], **params: Any) -> tuple[Any, Any]:
        results = jax.vmap(partial(parts, **params), axes)(*operands)
        return results, [0] * len(results) if multiple_results else 0

    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(parts, multiple_results=multiple_results))
    return primitive
