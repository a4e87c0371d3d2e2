"""How many images a second does the server classify, beside the model called directly, with what latency?

Run:       python experiments/benchmarks/serving.py
Hardware:  2 CPU cores, for the server, its clients and the direct calls; about 6 minutes.
Expected:  85 % or more of the direct calls' images a second, at 1, 8 and 32 clients.

Each client sends a JPEG photo, waits for the answer, and sends it again. The direct calls classify images
that are decoded already, in batches as large as there are clients. Server and direct calls take turns, and
each ratio is of one turn, so that other work on the machine meets both. The ratio by processor time
compares what an image costs the server's whole process with what it costs the direct calls.

Measured on 2 cores of an Intel Xeon without other work, resnext50_32x4d in float32, --seconds 8 --rounds 3:
0.90, 0.98 and 0.90 of the direct calls' images a second at 1, 8 and 32 clients.
"""

import http.client
import io
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from flax import nnx
from PIL import Image

from resnext_jax import Preprocessing, load_run, ops, runs
from resnext_jax.models import build_model, get_config, split_model

PHOTO = (500, 375)  # ImageNet's average size, in pixels


@dataclass(frozen=True)
class Turn:
    """What was done in one turn.

    Args:
        images: classified.
        seconds: on the clock.
        processor: seconds of processor time.
        latencies: seconds of each request; of direct calls, of each batch.
    """

    images: int
    seconds: float
    processor: float
    latencies: list[float]

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds

    @property
    def cost(self) -> float:
        """Processor time of an image."""
        return self.processor / self.images


@dataclass(frozen=True)
class Serving:
    """Measure the server."""

    model: str = "resnext50_32x4d"
    """A name of `resnext-jax models`, with random weights."""
    image_size: int = 224
    """Side of the images that the model sees, in pixels."""
    clients: tuple[int, ...] = (1, 8, 32)
    """Numbers of clients to measure with."""
    seconds: float = 15
    """Of a turn, at least."""
    rounds: int = 4
    """Turns of the server and of the direct calls, for each number of clients."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> None:
        ops.keep_freed_memory()
        with tempfile.TemporaryDirectory() as folder:
            directory = write_run(Path(folder) / "run", self.model, self.image_size)
            predictor = load_run(directory)
            photo = make_photo()
            pixels = predictor.preprocessing(np.asarray(Image.open(io.BytesIO(photo))))
            with server(directory, max(self.clients)) as (pid, port):
                rows = []
                for clients in self.clients:
                    batch = np.stack([pixels] * clients)
                    predictor.probabilities(batch, clients)  # compiles
                    turns = []
                    for _ in range(self.rounds):
                        served = serve_turn(pid, port, photo, clients, self.seconds)
                        turns.append((served, direct_turn(predictor.probabilities, batch, self.seconds)))
                    rows.append(summary(clients, turns))
        print(json.dumps(rows, indent=2) if self.json else table(self.model, rows))


def write_run(directory: Path, name: str, image_size: int) -> Path:
    """A run of random weights."""
    spec = runs.ModelSpec(name, get_config(name), tuple(map(str, range(10))), Preprocessing(image_size))
    model = build_model(spec.architecture, num_classes=len(spec.classes), rngs=nnx.Rngs(0))
    _, params, batch_stats = split_model(model)
    runs.start(directory, spec, {})
    with runs.Checkpoints(directory, write=True) as checkpoints:
        variables = {"params": params, "batch_stats": batch_stats}
        meta = spec.to_dict() | {"config": {}}
        checkpoints.save(0, variables, {"step": np.int32(0)}, meta, metrics=None)
    return directory


def make_photo() -> bytes:
    """A JPEG file with the detail of a photo: about 60 kB."""
    coarse = np.random.default_rng(0).integers(0, 256, (PHOTO[1] // 8, PHOTO[0] // 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize(PHOTO, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


@contextmanager
def server(directory: Path, clients: int) -> Iterator[tuple[int, int]]:
    """A server as its own process; yields its process and its port."""
    command = [sys.executable, "-c", "from resnext_jax.cli import main; main()", "serve", str(directory)]
    flags = ["--port", "0", "--max-requests", str(clients)]
    process = subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        yield process.pid, int(re.search(r":(\d+)/ ", line).group(1))
    finally:
        process.terminate()
        process.communicate()


def serve_turn(pid: int, port: int, photo: bytes, clients: int, seconds: float) -> Turn:
    """Clients that each send a photo, wait for the answer, and send it again."""
    body = b'--end\r\nContent-Disposition: form-data; name="image"; filename="photo.jpg"\r\n\r\n'
    body += photo + b"\r\n--end--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=end"}
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        while (start := time.perf_counter()) < end:
            connection.request("POST", "/predict", body, headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise RuntimeError(text.decode())
            latencies.append(time.perf_counter() - start)
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    start, used = time.perf_counter(), processor_seconds(pid)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Turn(len(latencies), time.perf_counter() - start, processor_seconds(pid) - used, latencies)


def direct_turn(classify, batch: np.ndarray, seconds: float) -> Turn:
    """The model called with a batch, again and again."""
    latencies: list[float] = []
    begin, used = time.perf_counter(), time.process_time()
    while time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        classify(batch, len(batch))
        latencies.append(time.perf_counter() - start)
    elapsed = time.perf_counter() - begin
    return Turn(len(batch) * len(latencies), elapsed, time.process_time() - used, latencies)


def processor_seconds(pid: int) -> float:
    """Processor time that a process has used so far, as Linux tells."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def summary(clients: int, turns: list[tuple[Turn, Turn]]) -> dict[str, float]:
    """What the turns with so many clients show."""
    latencies = sorted(latency for served, _ in turns for latency in served.latencies)
    quantiles = {
        share: latencies[min(int(share * len(latencies)), len(latencies) - 1)] for share in (0.5, 0.95)
    }
    return {
        "clients": clients,
        "served_per_second": max(served.rate for served, _ in turns),
        "direct_per_second": max(direct.rate for _, direct in turns),
        "ratio": statistics.median(served.rate / direct.rate for served, direct in turns),
        "processor_ratio": statistics.median(direct.cost / served.cost for served, direct in turns),
        "latency_median_ms": 1e3 * quantiles[0.5],
        "latency_95_ms": 1e3 * quantiles[0.95],
    }


def table(model: str, rows: list[dict[str, float]]) -> str:
    """The figures as Markdown."""
    lines = [
        f"| {model}, clients | served, images/s | direct, images/s | ratio | ratio by processor time | "
        "latency, median / 95 %, ms |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['clients']} | {row['served_per_second']:.1f} | {row['direct_per_second']:.1f} | "
            f"{row['ratio']:.2f} | {row['processor_ratio']:.2f} | "
            f"{row['latency_median_ms']:.0f} / {row['latency_95_ms']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(Serving)()
