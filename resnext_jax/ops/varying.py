"""Types inside of `jax.shard_map`."""

import jax


def vary_alike(*arrays: jax.Array) -> list[jax.Array]:
    """The same arrays, declared to vary over the same mesh axes: what a primitive expects of its operands."""
    axes = frozenset().union(*(jax.typeof(x).manual_axis_type.varying for x in arrays))

    def vary(x: jax.Array) -> jax.Array:
        missing = tuple(axes - jax.typeof(x).manual_axis_type.varying)
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return [vary(x) for x in arrays]
