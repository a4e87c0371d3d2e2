"""A small run, and servers of it as real processes."""

import base64
import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from small_models import CLASSES, KINDS, SIDE, small_model

from resnext_jax import runs
from resnext_jax.data import Preprocessing
from resnext_jax.models import split_model
from resnext_jax.runs import ModelSpec, Row

COMMAND = [sys.executable, "-c", "from resnext_jax.cli import main; main()"]


def write_run(directory: Path, *, broken: bool = False, history: list[Row] | None = None) -> Path:
    """A run directory as training leaves it.

    Args:
        directory: the new run directory.
        broken: its weights are not finite.
        history: a row an epoch.
    """
    spec = ModelSpec("small", KINDS["bottleneck"], CLASSES, Preprocessing(SIDE))
    _, params, batch_stats = split_model(small_model("bottleneck"))
    params["fc"]["bias"] *= np.nan if broken else 1
    runs.start(directory, spec, {"epochs": 3})
    runs.write_history(directory, history or [])
    with runs.Checkpoints(directory, write=True) as checkpoints:
        model = {"params": params, "batch_stats": batch_stats}
        meta = spec.to_dict() | {"config": {"epochs": 3}}
        checkpoints.save(12, model, {"step": np.int32(12)}, meta, metrics=None)
    return directory


class Server:
    """A server under way.

    Args:
        process: of the command.
        port: that it listens on, on this computer.
    """

    def __init__(self, process: subprocess.Popen, port: int):
        self.process, self.port = process, port
        self.host = f"127.0.0.1:{port}"
        self.url = f"http://{self.host}/"

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {"Host": self.host} | dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def get(self, path: str) -> dict[str, Any]:
        """The JSON at a path."""
        status, _, body = self.ask("GET", path)
        assert status == 200, body
        return json.loads(body)

    def post(self, body: bytes, kind: str, path: str = "/predict", **headers: str) -> tuple[int, dict]:
        """Status and JSON of a request to classify images."""
        status, answered, text = self.ask("POST", path, body, {"Content-Type": kind} | headers)
        assert answered["content-type"] == "application/json"
        return status, json.loads(text)

    def send_files(self, files: Mapping[str, bytes], path: str = "/predict") -> tuple[int, dict]:
        """As a browser's form."""
        return self.post(*form(files), path)

    def send_json(self, images: list[bytes], path: str = "/predict") -> tuple[int, dict]:
        """As a program does."""
        texts = [base64.b64encode(image).decode() for image in images]
        return self.post(json.dumps({"images": texts}).encode(), "application/json", path)

    def end(self, signum: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        """Exit code, standard output and standard error after a signal."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@contextmanager
def serving(command: str, directory: Path, *flags: object) -> Iterator[Server]:
    """A process of `resnext-jax serve` or `watch` that answers already, on a port of its own."""
    arguments = [command, str(directory), "--port", "0", *map(str, flags)]
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    # A server that never comes up ends the test.
    watchdog = threading.Timer(300, process.kill)
    watchdog.start()
    try:
        found = None
        while not found and (line := process.stdout.readline()):
            found = re.search(r"at http://[\w.\[\]:-]+:(\d+)/", line)
        assert found, process.stderr.read()
        yield Server(process, int(found.group(1)))
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.kill()
            process.communicate()


def form(files: Mapping[str, bytes]) -> tuple[bytes, str]:
    """The body and the content type of a form of files, by their names."""
    parts = [
        f'--end\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for name, data in files.items()
    ]
    return b"".join(parts) + b"--end--\r\n", "multipart/form-data; boundary=end"


def picture(seed: int, kind: str = "JPEG", size: tuple[int, int] = (48, 40), **options: Any) -> bytes:
    """An image of random blocks as a file."""
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST).save(file, kind, **options)
    return file.getvalue()
