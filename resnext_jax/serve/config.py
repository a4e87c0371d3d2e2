"""Where the server listens, whom it answers, and how much it accepts."""

import ipaddress
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from resnext_jax.errors import BadInput
from resnext_jax.fields import Config, Range


@dataclass(frozen=True, kw_only=True)
class Address(Config):
    """Where the server listens, and whom it answers."""

    host: str = "127.0.0.1"
    """Address to listen on. Only this computer reaches the default; the whole network reaches 0.0.0.0, and
    there is no password."""
    port: Annotated[int, Range(least=0, most=65535)] = 8000
    """Port to listen on; 0 takes a free one."""
    allow_host: tuple[str, ...] = ()
    """More names under which browsers may reach the server, such as lab-pc.example.org; IP addresses and
    localhost are always allowed."""
    allow_origin: tuple[str, ...] = ()
    """Other web pages that may send requests from a browser, such as https://app.example.org."""

    def check(self) -> None:
        super().check()
        for name in self.allow_host:
            if not name or urlsplit(f"//{name}").hostname != name.lower():
                raise BadInput(f"allow_host={name}: expected a host name alone, such as lab-pc.example.org")
        for origin in self.allow_origin:
            parts = urlsplit(origin)
            if not parts.scheme or not parts.netloc or f"{parts.scheme}://{parts.netloc}" != origin:
                raise BadInput(
                    f"allow_origin={origin}: expected scheme and host alone, such as https://app.example.org"
                )

    @property
    def is_local(self) -> bool:
        """Whether only this computer reaches the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True, kw_only=True)
class ServeConfig(Address):
    """How a model is served."""

    batch_size: Annotated[int | None, Range(least=1)] = None
    """The most images that the model sees at once; requests at the same time share a batch (default: 8 on
    CPUs, which gain nothing by more, else 64)."""
    devices: Annotated[int | None, Range(least=1)] = None
    """Use only this many devices (default: all of this host)."""
    max_megabytes: Annotated[float, Range(above=0)] = 32.0
    """The largest request."""
    max_megapixels: Annotated[float, Range(above=0, most=178)] = 50.0
    """The largest image, in millions of pixels (178 is Pillow's own limit)."""
    max_images: Annotated[int, Range(least=1)] = 32
    """The most images in a request."""
    max_requests: Annotated[int, Range(least=1)] = 64
    """The most requests at the same time; others are told to try again."""
    timeout: Annotated[float, Range(above=0)] = 60.0
    """Seconds after which a request is given up."""

    @property
    def max_bytes(self) -> int:
        """The most bytes in the body of a request."""
        return int(self.max_megabytes * 10**6)

    @property
    def max_pixels(self) -> int:
        """The most pixels of an image."""
        return int(self.max_megapixels * 10**6)
