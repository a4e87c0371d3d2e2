"""What the server answers: its pages, the classes of images, the state of the run and of itself."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from resnext_jax.errors import BadInput
from resnext_jax.inference import Predictor
from resnext_jax.runs import to_json
from resnext_jax.serve.batching import Batcher
from resnext_jax.serve.config import Address, ServeConfig
from resnext_jax.serve.guard import Guard
from resnext_jax.serve.heat_maps import HeatMaps, shrink
from resnext_jax.serve.metrics import CONTENT_TYPE, Metrics
from resnext_jax.serve.uploads import Upload, decode_upload, read_uploads
from resnext_jax.serve.watching import read_pictures, read_progress

logger = logging.getLogger(__name__)

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
TOP = 5  # classes named for an image unless the request asks for another number; only these have heat maps

T = TypeVar("T")


def watch_app(directory: Path, address: Address) -> Starlette:
    """Shows how a run goes.

    Args:
        directory: the run directory.
        address: whom to answer.
    """
    routes = [_page("/", "watch.html"), Route("/health", lambda _: _json({"status": "ok"}))]
    return _app([*routes, *_run_routes(directory, classifies=False)], address)


def serve_app(directory: Path, classifier: "Classifier", metrics: Metrics, config: ServeConfig) -> Starlette:
    """Classifies images, and shows how the run went.

    Args:
        directory: the run directory.
        classifier: answers `POST /predict`.
        metrics: counts.
        config: limits, and whom to answer.
    """
    routes = [
        _page("/", "index.html"),
        _page("/predict.js", "predict.js"),
        Route("/predict", classifier.predict, methods=["POST"]),
        Route("/model", lambda _: _json(classifier.describe(directory))),
        Route("/health", classifier.health),
        Route("/metrics", lambda _: Response(metrics.text(), headers={"content-type": CONTENT_TYPE})),
    ]
    return _app([*routes, *_run_routes(directory, classifies=True)], config)


class Classifier:
    """Answers `POST /predict`.

    Args:
        predictor: the model.
        batcher: its device.
        heat_maps: compiled already.
        workers: threads that decode and draw.
        metrics: counts.
        config: limits.
    """

    def __init__(
        self,
        predictor: Predictor,
        batcher: Batcher,
        heat_maps: HeatMaps,
        workers: ThreadPoolExecutor,
        metrics: Metrics,
        config: ServeConfig,
    ):
        self._predictor, self._batcher, self._heat_maps = predictor, batcher, heat_maps
        self._workers, self._metrics, self._config = workers, metrics, config
        self._in_progress = 0

    async def predict(self, request: Request) -> Response:
        """Classify the images of a request, or say in one line why not."""
        with self._metrics.request_seconds.time():
            try:
                with self._admitted():
                    response = _json(await self._answer(request))
            except HTTPException as error:
                response = _error(request, error)
            except ClientDisconnect:
                response = Response(status_code=499)  # reaches nobody; nginx counts such requests so
            except Exception:
                logger.exception("a request failed")
                response = _json({"error": "the server failed at this request; its log tells why"}, 500)
        self._metrics.requests.labels(response.status_code).inc()
        return response

    def describe(self, directory: Path) -> dict[str, Any]:
        """The model and the limits, for the page."""
        spec, config = self._predictor.spec, self._config
        limits = {name: getattr(config, name) for name in ("max_images", "max_megabytes", "max_megapixels")}
        return {
            "run": directory.resolve().name,
            "model": spec.name,
            "step": self._predictor.step,
            "classes": list(spec.classes),
            "image_size": spec.preprocessing.image_size,
            "limits": limits,
        }

    async def health(self, _: Request) -> Response:
        """Whether images can be classified."""
        alive = self._batcher.alive
        return _json({"status": "ok" if alive else "the device's thread has ended"}, 200 if alive else 503)

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        """Turn away what is too much at the same time."""
        if self._in_progress >= self._config.max_requests:
            busy = f"{self._in_progress} requests are worked on, as many as are accepted; try again"
            raise HTTPException(503, busy, headers={"Retry-After": "1"})
        self._in_progress += 1
        self._metrics.in_progress.set(self._in_progress)
        try:
            yield
        finally:
            self._in_progress -= 1
            self._metrics.in_progress.set(self._in_progress)

    async def _answer(self, request: Request) -> dict[str, Any]:
        top, explain = _top(request), _explain(request)
        received = False
        try:
            async with asyncio.timeout(self._config.timeout):
                uploads = await read_uploads(request, self._config)
                received = True
                images = await self._prepare(uploads, explain)
                answers = [self._classify(*image, top) for image in images]
                classes = await asyncio.gather(*answers)
        except TimeoutError:
            what = "answered" if received else "received"
            late = f"the request was not {what} within {self._config.timeout:g} s"
            raise HTTPException(504 if received else 408, late) from None
        rows = zip(uploads, classes, strict=True)
        return {"predictions": [{"name": upload.name, "classes": named} for upload, named in rows]}

    async def _prepare(
        self, uploads: Sequence[Upload], explain: bool
    ) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Each image as the network sees it, and as its heat maps show it."""

        def prepare(upload: Upload) -> tuple[np.ndarray, np.ndarray | None]:
            original = decode_upload(upload, self._config.max_pixels)
            return self._predictor.preprocessing(original), shrink(original) if explain else None

        outcomes = await asyncio.gather(
            *(self._work(prepare, upload) for upload in uploads), return_exceptions=True
        )
        refusals = [outcome for outcome in outcomes if isinstance(outcome, HTTPException)]
        if refusals:
            raise HTTPException(refusals[0].status_code, "; ".join(error.detail for error in refusals))
        images = []
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            images.append(outcome)
        return images

    async def _classify(self, image: np.ndarray, original: np.ndarray | None, top: int) -> list[dict]:
        """The most probable classes of an image, those with heat maps if the original is given."""
        probabilities = await asyncio.wrap_future(self._batcher.submit(image))
        if not np.isfinite(probabilities).all():
            raise FloatingPointError("the model's output for an image is not finite")
        order = np.argsort(-probabilities, kind="stable")[:top]
        names = self._predictor.classes
        classes = [{"name": names[i], "probability": float(probabilities[i])} for i in order]
        if original is not None:
            compute = partial(self._heat_maps.compute, image, probabilities)
            maps = await asyncio.wrap_future(self._batcher.call(compute))
            pictures = await self._work(self._heat_maps.draw, original, probabilities, maps)
            for named, picture in zip(classes, pictures, strict=False):
                named["heat_map"] = picture
        return classes

    async def _work(self, function: Callable[..., T], *arguments: Any) -> T:
        """Let another thread work, while this one answers others."""
        return await asyncio.get_running_loop().run_in_executor(self._workers, function, *arguments)


def _top(request: Request) -> int:
    text = request.query_params.get("top", str(TOP))
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise HTTPException(400, f"top={text}: expected the number of classes to name, at least 1")
    return int(text)


def _explain(request: Request) -> bool:
    text = request.query_params.get("heat_maps", "false")
    if text not in ("true", "false"):
        raise HTTPException(400, f"heat_maps={text}: expected true or false")
    return text == "true"


def _app(routes: Sequence[BaseRoute], address: Address) -> Starlette:
    allowed = Middleware(
        CORSMiddleware,
        allow_origins=address.allow_origin,
        allow_methods=["GET", "POST"],
        allow_headers=["content-type"],
    )
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, address=address), *([allowed] if address.allow_origin else [])],
        exception_handlers={HTTPException: _error},  # pyright: ignore[reportArgumentType]
    )


def _run_routes(directory: Path, classifies: bool) -> list[BaseRoute]:
    def answer(read: Callable[[Path], dict[str, Any]], **more: Any) -> Response:
        try:
            return _json(read(directory) | more)
        except (OSError, BadInput) as error:
            return _json({"error": str(error)}, 404)

    def progress(_: Request) -> Response:
        return answer(read_progress, classifies=classifies)

    def pictures(_: Request) -> Response:
        return answer(read_pictures)

    pages = [_page("/watch", "watch.html"), _page("/watch.js", "watch.js"), _page("/style.css", "style.css")]
    return [*pages, _page("/icon.svg", "icon.svg"), Route("/run", progress), Route("/pictures", pictures)]


def _page(path: str, name: str) -> Route:
    """A file of the package; it is read now, so that a request opens nothing."""
    content = (files("resnext_jax.serve") / "page" / name).read_bytes()
    kind = TYPES[Path(name).suffix]
    return Route(path, lambda _: Response(content, media_type=kind))


def _error(_: Request, error: HTTPException) -> Response:
    return _json({"error": " ".join(error.detail.split())}, error.status_code, error.headers)


def _json(values: dict[str, Any], status: int = 200, headers: Any = None) -> Response:
    return Response(to_json(values), status, headers, media_type="application/json")
