"""Who may ask: other web pages are kept out, by the Host and Origin of each request."""

import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resnext_jax.serve.config import Address

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """Refuses requests that a foreign web page has sent, and tells browsers to keep to this server.

    A page somewhere on the web can send requests to a server on the visitor's own computer: directly, which
    the Origin of the request tells, or under a name of its own that it lets point to 127.0.0.1 (DNS
    rebinding), which the Host tells.

    Args:
        app: answers what is let through.
        address: names and origins that are allowed.
    """

    def __init__(self, app: ASGIApp, address: Address):
        self._app = app
        self._origins = {origin.lower() for origin in address.allow_origin}
        self._hosts = {"localhost", *(host.lower() for host in address.allow_host)}
        if not address.is_local:
            self._hosts |= {address.host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(Headers(scope=scope))
        app = JSONResponse({"error": refusal}, status_code=403) if refusal else self._app
        await app(scope, receive, send_with_headers)

    def _refusal(self, headers: Headers) -> str | None:
        host = headers.get("host", "").lower()
        name = _host_name(host)
        if not _is_address(name) and name not in self._hosts:
            return f"host {host!r}: not a name of this server; allow_host lets it be one"
        origin = headers.get("origin", "").lower()
        if origin and origin not in self._origins and origin.partition("://")[2] != host:
            return f"origin {origin!r}: other web pages may not ask this server; allow_origin lets them"
        return None


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    """Whether it is an IP address, which no foreign page can let point to this computer."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
