"""Downloads from a server on this machine that can be told to misbehave."""

import hashlib
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from resnext_jax.storage.download import download

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT, with ranges; `requests` records the Range header of each request.

    `behaviour` is "good", "cut" (closes halfway), "slow" (stalls halfway), "no ranges", "missing", "broken".
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviour = "good"
        self.requests: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/weights-{SHA256[:8]}.pth"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        asked, behaviour = self.headers["Range"], self.server.behaviour
        self.server.requests.append(asked)
        if behaviour in ("missing", "broken"):
            self.send_error(404 if behaviour == "missing" else 503)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if behaviour == "no ranges":
            start = 0
        elif start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        body = CONTENT[start:]
        if behaviour in ("cut", "slow"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            time.sleep(2 if behaviour == "slow" else 0)
        else:
            self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "weights.pth"


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {".lock"}


def test_download_and_second_use_offline(server, target):
    assert download(server.url, target, sha256_prefix=SHA256[:8]) == target
    assert target.read_bytes() == CONTENT
    assert names(target.parent) == {"weights.pth"}
    assert download("http://127.0.0.1:9/gone", target, sha256_prefix=SHA256[:8]) == target
    assert server.requests == [None]


def test_wrong_hash_leaves_nothing(server, target):
    with pytest.raises(ValueError, match=f"SHA-256 begins {SHA256[:8]}, not 00000000: damaged or replaced"):
        download(server.url, target, sha256_prefix="00000000")
    assert names(target.parent) == set()


def test_cut_connection_is_resumed(server, target):
    server.behaviour = "cut"
    with pytest.raises(
        ConnectionError, match=r"cut after 1,500,000 of 3,000,000 bytes; .*run it again to go on"
    ):
        download(server.url, target, sha256_prefix=SHA256[:8])
    assert names(target.parent) == {"weights.pth.partial"}
    server.behaviour = "good"
    download(server.url, target, sha256_prefix=SHA256[:8])
    assert server.requests == [None, "bytes=1500000-"]
    assert target.read_bytes() == CONTENT
    assert names(target.parent) == {"weights.pth"}


def test_server_without_ranges_starts_anew(server, target):
    target.parent.mkdir()
    target.with_name("weights.pth.partial").write_bytes(CONTENT[:1000])
    server.behaviour = "no ranges"
    download(server.url, target, sha256_prefix=SHA256[:8])
    assert target.read_bytes() == CONTENT


def test_whole_partial_file_is_fetched_anew(server, target):
    """A process can die between the last byte and the new name; the server then answers 416."""
    target.parent.mkdir()
    target.with_name("weights.pth.partial").write_bytes(CONTENT)
    download(server.url, target, sha256_prefix=SHA256[:8])
    assert server.requests == [f"bytes={len(CONTENT)}-", None]
    assert target.read_bytes() == CONTENT


def test_stale_partial_file_is_not_trusted(server, target):
    target.parent.mkdir()
    target.with_name("weights.pth.partial").write_bytes(b"other content")
    with pytest.raises(ValueError, match="nothing was kept"):
        download(server.url, target, sha256_prefix=SHA256[:8])
    assert names(target.parent) == set()


def test_slow_server(server, target):
    server.behaviour = "slow"
    with pytest.raises(ConnectionError, match=r"nothing came for 0\.3 s; 1,500,000 bytes are kept"):
        download(server.url, target, sha256_prefix=SHA256[:8], timeout=0.3)


@pytest.mark.parametrize(("behaviour", "answer"), [("missing", "404 Not Found"), ("broken", "503")])
def test_http_errors(server, target, behaviour, answer):
    server.behaviour = behaviour
    with pytest.raises(
        ConnectionError, match=f"cannot download {server.url}: the server answered {answer}"
    ) as info:
        download(server.url, target, sha256_prefix=SHA256[:8])
    assert str(target) in str(info.value)
    assert "\n" not in str(info.value)
    assert names(target.parent) == set()


def test_offline(target):
    with pytest.raises(ConnectionError, match=r"cannot download .*refused.*put the file at") as info:
        download("http://127.0.0.1:9/weights.pth", target, sha256_prefix="0")
    assert "\n" not in str(info.value)
    assert names(target.parent) == set()


def test_no_space_leaves_nothing(server, target):
    target.parent.mkdir()
    target.with_name("weights.pth.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"no space left for .*RESNEXT_JAX_CACHE"):
        download(server.url, target, sha256_prefix=SHA256[:8])
    assert names(target.parent) == set()


def test_two_at_once_fetch_once(server, target):
    threads = [
        threading.Thread(target=download, args=(server.url, target), kwargs={"sha256_prefix": SHA256[:8]})
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == CONTENT
    assert server.requests == [None]
