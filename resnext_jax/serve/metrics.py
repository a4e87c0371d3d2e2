"""What the server counts, in the text form that Prometheus reads."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

PREFIX = "resnext_jax"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counts of one server.

    Args:
        batch_sizes: those that are compiled.
        waiting: how many images no batch has taken yet.

    Attributes:
        requests: requests to classify images, by status.
        request_seconds: from the head of a request to its response.
        in_progress: requests that are worked on.
        batch_images: images in a batch.
        batch_seconds: of a batch on the device.
    """

    def __init__(self, batch_sizes: tuple[int, ...], waiting: Callable[[], int]):
        self._registry = registry = CollectorRegistry()
        options = {"namespace": PREFIX, "registry": registry}
        self.requests = Counter("requests", "Requests to classify images", ["status"], **options)
        self.request_seconds = Histogram(
            "request_seconds", "From a request to its response", buckets=_SECONDS, **options
        )
        self.in_progress = Gauge("requests_in_progress", "Requests that are worked on", **options)
        self.batch_images = Histogram(
            "batch_images", "Images classified together", buckets=batch_sizes, **options
        )
        self.batch_seconds = Histogram(
            "batch_seconds", "Time of a batch on the device", buckets=_SECONDS, **options
        )
        Gauge("images_waiting", "Images that no batch has taken yet", **options).set_function(waiting)

    def batch(self, images: int, seconds: float) -> None:
        """Count a batch."""
        self.batch_images.observe(images)
        self.batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """All counts, as Prometheus reads them."""
        return generate_latest(self._registry)
