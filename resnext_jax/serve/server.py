"""The server's life: its port, the model, the requests, and its end by a signal."""

import asyncio
import errno
import logging
import os
import signal
import socket
import threading
import webbrowser
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np

from resnext_jax.console import Console
from resnext_jax.data import available_cpus
from resnext_jax.errors import BadInput, MissingPackage
from resnext_jax.inference import load_run
from resnext_jax.runs import Which
from resnext_jax.serve.batching import Batcher, batch_sizes
from resnext_jax.serve.config import Address, ServeConfig
from resnext_jax.serve.watching import read_progress

try:
    import uvicorn
    from starlette.applications import Starlette
    from uvicorn.protocols.http.h11_impl import H11Protocol

    from resnext_jax.serve.app import TOP, Classifier, serve_app, watch_app
    from resnext_jax.serve.heat_maps import HeatMaps
    from resnext_jax.serve.metrics import Metrics
except ImportError as error:
    raise MissingPackage(
        f"the web server is not there ({error}): pip install 'resnext-jax[serve]'"
    ) from error

_LAST_SECONDS = 10  # for requests under way when the server is told to end


def serve(
    directory: str | Path,
    config: ServeConfig | None = None,
    *,
    checkpoint: Which = "best",
    open_page: bool = False,
    console: Console | None = None,
) -> None:
    """Serve a run's model until SIGINT (Ctrl-C) or SIGTERM.

    Args:
        directory: the run directory.
        config: address and limits; None: the defaults.
        checkpoint: "best" (by what the run monitored) or "latest".
        open_page: show the page in the user's browser.
        console: where to say what goes on.

    Raises:
        FileNotFoundError: no run or no checkpoint there.
        BadInput: a value out of its range, a port that is taken, fewer devices than asked for, or weights
            that are not finite.
    """
    config, console, directory = config or ServeConfig(), console or Console(), Path(directory)
    config.check()
    with _listen(config) as listener:  # before the model: a port that is taken is told at once
        predictor = load_run(directory, checkpoint)

        def classify(images: np.ndarray) -> np.ndarray:
            return predictor.probabilities(images, len(images), config.devices)

        most = config.batch_size or (8 if jax.default_backend() == "cpu" else 64)
        sizes = batch_sizes(most, config.devices or jax.local_device_count())
        metrics = Metrics(sizes, waiting=lambda: batcher.waiting)
        batcher = Batcher(classify, sizes, on_batch=metrics.batch)
        heat_maps = HeatMaps(predictor, TOP)
        with console.task("compiling", len(sizes) + 1) as update:
            first = batcher.warm(predictor.preprocessing.image_size, update)
            heat_maps.warm()
        if not np.isfinite(first).all():
            raise BadInput(f"{directory}: the model's outputs are not finite at step {predictor.step}")
        with batcher, ThreadPoolExecutor(available_cpus(), thread_name_prefix="image") as workers:
            about = f"{predictor.spec.name}, {len(predictor.classes)} classes, step {predictor.step}"
            classifier = Classifier(predictor, batcher, heat_maps, workers, metrics, config)
            app = serve_app(directory, classifier, metrics, config)
            _answer(app, config, listener, f"{directory} ({about})", config.timeout, open_page, console)


def watch(
    directory: str | Path,
    address: Address | None = None,
    *,
    open_page: bool = False,
    console: Console | None = None,
) -> None:
    """Show a run under way in the browser, until SIGINT (Ctrl-C) or SIGTERM.

    Args:
        directory: the run directory.
        address: where to listen; None: the default.
        open_page: show the page in the user's browser.
        console: where to say what goes on.

    Raises:
        FileNotFoundError: there is no run.
        BadInput: a value out of its range, a port that is taken, or a run that is described in another way.
    """
    address, console, directory = address or Address(), console or Console(), Path(directory)
    address.check()
    read_progress(directory)
    with _listen(address) as listener:
        _answer(watch_app(directory, address), address, listener, str(directory), 60, open_page, console)


@contextmanager
def _listen(address: Address) -> Iterator[socket.socket]:
    host, port = address.host, address.port
    try:
        [(family, *_, target), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        listener = socket.create_server(target[:2], family=family)
    except socket.gaierror as error:
        raise BadInput(f"host={host}: not an address of this computer: {error.strerror}") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise BadInput(f"port={port}: another program uses it; choose another, or 0 for any") from error
        raise BadInput(f"host={host}, port={port}: {os.strerror(error.errno or 0)}") from error
    with listener:
        yield listener


def _answer(
    app: Starlette,
    address: Address,
    listener: socket.socket,
    what: str,
    timeout: float,
    open_page: bool,
    console: Console,
) -> None:
    """Answer requests until a signal."""
    page = f"http://{_shown(address)}:{listener.getsockname()[1]}/"
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http=_connections(timeout),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_LAST_SECONDS,
        )
    )
    console.line(f"serving {what} at {page} (Ctrl-C ends it)")
    if not address.is_local:
        console.line("it is reached from the network, by anyone: there is no password")
    if open_page:
        webbrowser.open(page)
    with _signals_end_quietly():
        server.run(sockets=[listener])
    console.line("ended")


def _shown(address: Address) -> str:
    """The host as a browser is to ask for it."""
    host = _own_address() if address.host in ("0.0.0.0", "::") else address.host
    return f"[{host}]" if ":" in host else host


def _own_address() -> str:
    """This computer's address in its network, for the phone that is to open the page."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only chooses the way to other computers
        except OSError:
            return socket.gethostname()
        return probe.getsockname()[0]


def _connections(timeout: float) -> type[H11Protocol]:
    """Connections that are closed when no request has come on them in time."""

    class Connection(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self.loop.call_later(timeout, self._close_unused)

        def _close_unused(self) -> None:
            if self.cycle is None:  # no complete head of a request so far
                self.transport.close()

    return Connection


@contextmanager
def _signals_end_quietly() -> Iterator[None]:
    """uvicorn ends by itself on these, and then raises them again for whoever handled them before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ending = (signal.SIGINT, signal.SIGTERM)
    previous = {signum: signal.signal(signum, lambda *_: None) for signum in ending}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
