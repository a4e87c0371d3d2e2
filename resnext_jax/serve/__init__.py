"""A local web server for a run: classify images in the browser and by HTTP, watch a run under way."""

from typing import TYPE_CHECKING, Any

from resnext_jax.serve.config import Address, ServeConfig

if TYPE_CHECKING:
    from resnext_jax.serve.server import serve, watch

__all__ = ["Address", "ServeConfig", "serve", "watch"]


def __getattr__(name: str) -> Any:
    # The web server is an extra, so its packages are imported only by those who serve.
    if name in ("serve", "watch"):
        from resnext_jax.serve import server

        return getattr(server, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
