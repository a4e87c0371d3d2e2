"""A server as its own process: right classes, concurrent clients, every limit, hostile input, its end."""

import base64
import errno
import io
import json
import signal
import socket
import struct
import subprocess
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from serving import COMMAND, Server, form, picture, serving, write_run
from small_models import CLASSES

from resnext_jax import load_run
from resnext_jax.data import decode
from resnext_jax.inference import finest_stage
from resnext_jax.reports.heatmaps import overlay
from resnext_jax.serve.heat_maps import shrink

TIMEOUT = 15
LIMITS = {
    "--batch-size": 4,
    "--devices": 1,
    "--max-megabytes": 0.2,
    "--max-megapixels": 0.5,
    "--max-images": 4,
    "--max-requests": 8,
    "--timeout": TIMEOUT,
    "--allow-host": "lab.example.org",
    "--allow-origin": "https://app.example.org",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("serve") / "run")


@pytest.fixture(scope="module")
def server(run) -> Iterator[Server]:
    flags = [word for flag in LIMITS.items() for word in flag]
    with serving("serve", run, *flags) as server:
        yield server
        # Whatever the tests have sent, it still works, and nothing in it went wrong.
        assert server.get("/health") == {"status": "ok"}
        assert server.send_files({"last.jpg": picture(1)})[0] == 200
        code, out, err = server.end()
        assert (code, out) == (0, "ended\n")
        assert "Traceback" not in err, err
        assert "Exception" not in err, err


@pytest.fixture(scope="module")
def expected(run, tmp_path_factory):
    """The classes that `load_run(...).predict` gives an image, as the server names them."""
    predictor, folder = load_run(run), tmp_path_factory.mktemp("images")

    def classes(*images: bytes) -> list[dict[str, float]]:
        files = [folder / f"{i}" for i in range(len(images))]
        for file, image in zip(files, images, strict=True):
            file.write_bytes(image)
        return [dict(top) for top in predictor.predict(files).top(len(CLASSES))]

    return classes


def same(predictions: list[dict], expected: list[dict[str, float]]) -> None:
    assert len(predictions) == len(expected)
    for prediction, known in zip(predictions, expected, strict=True):
        names = [each["name"] for each in prediction["classes"]]
        assert names == list(known)
        for each in prediction["classes"]:
            # Batches of another size round differently.
            assert each["probability"] == pytest.approx(known[each["name"]], rel=1e-4, abs=1e-6)


def refused(answer: tuple[int, dict], status: int, *words: str) -> None:
    assert answer[0] == status, answer
    assert set(answer[1]) == {"error"}
    assert "\n" not in answer[1]["error"]
    for word in words:
        assert word in answer[1]["error"]


KINDS = {
    "a.jpg": picture(1),
    "b.png": picture(2, "PNG"),
    "c.webp": picture(3, "WEBP"),
    "upright.jpg": picture(
        4, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    ),
    "wide.jpg": picture(5, size=(400, 9)),
    "one pixel.bmp": picture(6, "BMP", size=(1, 1)),
    "still.gif": picture(7, "GIF"),
    "page.tif": picture(8, "TIFF"),
    "thread.png": picture(9, "PNG", size=(1, 20_000)),
}


def test_a_form_is_classified_as_predict_does(server, expected):
    for names in (list(KINDS)[:4], list(KINDS)[4:8], list(KINDS)[8:]):
        files = {name: KINDS[name] for name in names}
        status, answer = server.send_files(files, "/predict?heat_maps=true")
        assert status == 200, answer
        assert [each["name"] for each in answer["predictions"]] == names
        same(answer["predictions"], expected(*files.values()))


def test_json_is_classified_as_predict_does(server, expected):
    images = list(KINDS.values())[:3]
    status, answer = server.send_json(images)
    assert status == 200, answer
    same(answer["predictions"], expected(*images))


def test_a_data_address_and_line_breaks_are_understood(server, expected):
    text = base64.encodebytes(KINDS["a.jpg"]).decode()
    body = json.dumps({"images": [f"data:image/jpeg;base64,{text}"]}).encode()
    status, answer = server.post(body, "application/json; charset=utf-8")
    assert status == 200, answer
    same(answer["predictions"], expected(KINDS["a.jpg"]))


def test_as_many_classes_are_named_as_asked_for(server):
    status, answer = server.send_files({"a.jpg": picture(1)}, "/predict?top=2")
    assert status == 200
    assert len(answer["predictions"][0]["classes"]) == 2
    for top in ("0", "-1", "many", "²", ""):
        quoted = {"²": "%C2%B2"}.get(top, top)
        refused(server.send_files({"a.jpg": picture(1)}, f"/predict?top={quoted}"), 400, "top=")


def test_heat_maps_are_those_of_explain(server, run):
    predictor = load_run(run)
    stage = finest_stage(predictor.model, predictor.preprocessing.image_size)
    images = {"small.jpg": picture(1), "wide.png": picture(2, "PNG", size=(900, 300))}
    status, answer = server.send_files(images, "/predict?heat_maps=true")
    assert status == 200, answer
    for prediction, image in zip(answer["predictions"], images.values(), strict=True):
        original = shrink(decode(image, ""))
        explained = predictor.explain(decode(image, ""), stage=stage, top_k=len(CLASSES))
        assert len(prediction["classes"]) == len(CLASSES)
        for place, named in enumerate(prediction["classes"]):
            head, _, text = named["heat_map"].partition(",")
            assert head == "data:image/jpeg;base64"
            drawn = decode(base64.b64decode(text), "").astype(float)
            known = overlay(explained, 0, place, original).astype(float)
            assert drawn.shape == known.shape
            assert np.abs(drawn - known).mean() < 6  # JPEG loses a little
            # It is this class's map, not another's.
            others = [
                overlay(explained, 0, other, original) for other in range(len(CLASSES)) if other != place
            ]
            assert all(np.abs(drawn - known).mean() < np.abs(drawn - other).mean() for other in others)
    status, answer = server.send_files({"a.jpg": picture(1)}, "/predict?heat_maps=false")
    assert "heat_map" not in answer["predictions"][0]["classes"][0]
    refused(server.send_files({"a.jpg": picture(1)}, "/predict?heat_maps=1"), 400, "heat_maps=1")


def test_concurrent_clients_each_get_their_own_answer(server, expected):
    images = [picture(seed, "PNG") for seed in range(24)]
    known = expected(*images)
    before = counts(server)

    def client(index: int) -> None:
        for seed in range(index, 24, 8):
            status, answer = server.send_files({f"{seed}.png": images[seed]})
            assert status == 200, answer
            assert answer["predictions"][0]["name"] == f"{seed}.png"
            same(answer["predictions"], [known[seed]])

    with ThreadPoolExecutor(8) as clients:
        list(clients.map(client, range(8)))
    after = counts(server)
    assert after["batch_images_sum"] - before["batch_images_sum"] == 24
    assert after["batch_images_count"] - before["batch_images_count"] <= 24


def counts(server: Server) -> dict[str, float]:
    """The metrics without labels, and those of requests by status."""
    status, headers, body = server.ask("GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            labels = sample.labels.get("status", sample.labels.get("le", ""))
            found[sample.name.removeprefix("resnext_jax_") + (f" {labels}" if labels else "")] = sample.value
    return found


def test_metrics_count_requests_by_status(server):
    before = counts(server)
    server.send_files({"a.jpg": picture(1), "b.jpg": picture(2)})
    server.send_files({"a.txt": b"words"})
    after = counts(server)
    for name, more in (("requests_total 200", 1), ("requests_total 415", 1), ("request_seconds_count", 2)):
        assert after[name] - before.get(name, 0) == more, name
    assert after["batch_images_sum"] - before["batch_images_sum"] == 2
    assert after["images_waiting"] == after["requests_in_progress"] == 0


def test_the_model_and_the_limits_are_told(server):
    told = server.get("/model")
    assert told["classes"] == list(CLASSES)
    assert (told["run"], told["model"], told["step"]) == ("run", "small", 12)
    assert told["limits"] == {"max_images": 4, "max_megabytes": 0.2, "max_megapixels": 0.5}


# Limits


def test_a_body_that_is_declared_too_large_is_refused_before_it_is_sent(server):
    head = f"POST /predict HTTP/1.1\r\nHost: {server.host}\r\nContent-Type: multipart/form-data; boundary=end"
    answer = raw(server, f"{head}\r\nContent-Length: 900000000\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {
        "error": "the request is too large: expected at most 0.2 MB"
    }


def test_a_body_that_becomes_too_large_is_refused(server):
    head = f"POST /predict HTTP/1.1\r\nHost: {server.host}\r\nContent-Type: application/json\r\n"
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    answer = raw(server, head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + 8 * chunk)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_too_many_images_are_refused(server):
    files = {f"{i}.jpg": picture(i) for i in range(5)}
    refused(server.send_files(files), 400, "Too many files", "4")
    refused(server.send_json(list(files.values())), 413, "5 images", "at most 4")


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of a header and what else is given."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (header, *chunks, (b"IEND", b""))
    )


@pytest.mark.parametrize(("width", "height"), [(10_000, 10_000), (20_000, 30_000), (1, 600_000)])
def test_too_many_pixels_are_refused_by_the_header(server, width, height):
    # There are no pixels behind the header: decoding would say that the file is cut off.
    refused(server.send_files({"vast.png": png(width, height)}), 413, "vast.png", "0.5 million")


def test_more_requests_than_are_accepted_are_told_to_come_again(server):
    body, kind = form({"a.jpg": picture(1)})
    head = f"POST /predict HTTP/1.1\r\nHost: {server.host}\r\nContent-Type: {kind}\r\n".encode()
    head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
    begun = [open_socket(server) for _ in range(8)]
    for connection in begun:
        connection.sendall(head + body[:10])
    while server_in_progress(server) < 8:
        pass
    status, headers, text = server.ask("POST", "/predict", body, {"Content-Type": kind})
    assert status == 503
    assert headers["retry-after"] == "1"
    assert "try again" in json.loads(text)["error"]
    assert server.get("/health") == {"status": "ok"}
    for connection in begun:
        connection.sendall(body[10:])
    for connection in begun:
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")


def server_in_progress(server: Server) -> float:
    return counts(server)["requests_in_progress"]


def test_who_does_not_go_on_is_given_up(server):
    head = f"POST /predict HTTP/1.1\r\nHost: {server.host}\r\nContent-Type: application/json\r\n"
    silent, half_head, half_body = (open_socket(server) for _ in range(3))
    half_head.sendall(head.encode())
    half_body.sendall(head.encode() + b'Content-Length: 50\r\n\r\n{"images"')
    assert read_all(silent) == read_all(half_head) == b""
    answer = read_all(half_body)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert f"not received within {TIMEOUT} s".encode() in answer


def test_who_leaves_in_the_middle_does_no_harm(server):
    head = f"POST /predict HTTP/1.1\r\nHost: {server.host}\r\nContent-Type: application/json\r\n"
    for sent in (b"", head.encode(), head.encode() + b'Content-Length: 50\r\n\r\n{"images"'):
        with open_socket(server) as connection:
            connection.sendall(sent)
            # An end without a farewell: the peer gets a reset.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert server.send_files({"a.jpg": picture(1)})[0] == 200


def open_socket(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def read_all(connection: socket.socket) -> bytes:
    with connection:
        return b"".join(iter(lambda: connection.recv(65536), b""))


def raw(server: Server, sent: bytes) -> bytes:
    """The answer to bytes, as far as the first packet holds it."""
    with open_socket(server) as connection:
        connection.sendall(sent)
        answer = b""
        while not answer.rstrip().endswith(b"}"):
            received = connection.recv(65536)
            if not received:
                break
            answer += received
        return answer


# Hostile and mistaken input


def animation(kind: str) -> bytes:
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "green", "blue")]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    return file.getvalue()


NOT_IMAGES = {
    "empty.jpg": (b"", "empty"),
    "words.jpg": (b"no image at all", "not an image"),
    "page.html": (b"<!DOCTYPE html><script>alert(1)</script>", "not an image"),
    "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not an image"),
    "print.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nquit\n", "not an image"),
    "link.pth": (b"version https://git-lfs.github.com/spec/v1\n", "not an image"),
    "cut.jpg": (picture(1)[:300], "cut.jpg"),
    "cut.png": (picture(1, "PNG")[:60], "cut.png"),
    "head only.png": (png(20, 20), "head only.png"),
    "moving.gif": (animation("GIF"), "several frames"),
    "moving.webp": (animation("WEBP"), "several frames"),
    "moving.png": (animation("PNG"), "several frames"),
    "pages.tif": (animation("TIFF"), "several frames"),
    "text bomb.png": (png(9, 9, (b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000)))), "text bomb.png"),
    "cut.tif": (picture(1, "TIFF")[:99], "cut.tif"),
    "../../../../etc/passwd": (b"root:x:0:0", "not an image"),
}


@pytest.mark.parametrize("name", NOT_IMAGES)
def test_what_is_no_still_image_is_refused(server, name):
    data, words = NOT_IMAGES[name]
    refused(server.send_files({name: data}), 415, words)


def test_every_bad_image_of_a_request_is_named(server):
    files = {"good.jpg": picture(1), "first.txt": b"words", "second.txt": b""}
    refused(server.send_files(files), 415, "first.txt: not an image", "second.txt: the file is empty")


BAD_BODIES = [
    (b"", "application/json", 400, "JSON"),
    (b"{", "application/json", 400, "JSON"),
    (b"[" * 100_000, "application/json", 400, "JSON"),
    (b"\xff\xfe", "application/json", 400, "JSON"),
    (b"NaN", "application/json", 400, "expected images"),
    (b"[]", "application/json", 400, "expected images"),
    (b'{"images": "a"}', "application/json", 400, "expected images"),
    (b'{"images": [], "path": "/etc/passwd"}', "application/json", 400, "expected images"),
    (b'{"images": []}', "application/json", 400, "no image"),
    (b'{"images": [1]}', "application/json", 400, "base64"),
    (b'{"images": ["/etc/passwd!"]}', "application/json", 400, "base64"),
    ('{"images": ["ä"]}'.encode(), "application/json", 400, "base64"),
    (b'{"images": ["file:///etc/passwd"]}', "application/json", 400, "base64"),
    (b"", "multipart/form-data", 400, "boundary"),
    (b"", "multipart/form-data; boundary=end", 400, "no image"),
    (b"--end--\r\n", "multipart/form-data; boundary=end", 400, "no image"),
    (b"rubbish", "multipart/form-data; boundary=end", 400, "form"),
    (b"--end\r\n\r\nno name\r\n--end--\r\n", "multipart/form-data; boundary=end", 400, "form"),
    (
        b'--end\r\nContent-Disposition: form-data; name="image"\r\n\r\n/etc/passwd\r\n--end--\r\n',
        "multipart/form-data; boundary=end",
        400,
        "file",
    ),
    (picture(1), "image/jpeg", 415, "image/jpeg"),
    (b"image=/etc/passwd", "application/x-www-form-urlencoded", 415, "multipart/form-data"),
    (picture(1), "", 415, "no content type"),
]


@pytest.mark.parametrize(("body", "kind", "status", "words"), BAD_BODIES)
def test_what_is_no_request_is_refused(server, body, kind, status, words):
    refused(server.post(body, kind), status, words)


def test_a_form_that_is_cut_off_is_refused(server):
    body, kind = form({"a.jpg": picture(1)})
    for end in (3, 60, len(body) // 2, len(body) - 12):
        status, answer = server.post(body[:end], kind)
        assert status in (400, 415), (end, answer)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/predict", 405),
        ("DELETE", "/", 405),
        ("GET", "/none", 404),
        ("GET", "/../../../../etc/passwd", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
        ("GET", "/style.css/../../server.py", 404),
        ("GET", "/page/index.html", 404),
    ],
)
def test_there_is_nothing_else(server, method, path, status):
    answered, _, body = server.ask(method, path)
    refused((answered, json.loads(body)), status)


def test_bytes_that_are_no_http_do_no_harm(server):
    for sent in (b"\0" * 1000, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"A" * 200_000):
        with open_socket(server) as connection:
            try:
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
            except OSError as error:
                if error.errno in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN):
                    continue  # the server has closed it already
                raise
            assert not answer or answer.startswith(b"HTTP/1.1 4")


# Other web pages

OURS = ["127.0.0.1:{port}", "localhost:{port}", "[::1]:{port}", "192.168.1.9:{port}", "LAB.example.org"]


@pytest.mark.parametrize("host", OURS)
def test_the_server_is_known_by_its_names(server, host):
    host = host.format(port=server.port)
    files, kind = form({"a.jpg": picture(1)})
    headers = {"Host": host, "Origin": f"http://{host}", "Content-Type": kind}
    assert server.ask("POST", "/predict", files, headers)[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:{port}"},
        {"Host": "lab.example.org.evil.example"},
        {"Host": "evil@evil.example"},
        {"Host": "127.0.0.1:80@evil.example"},
        {"Host": "[evil"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://[evil"},
        {"Origin": "127.0.0.1:{port}"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "http://127.0.0.1:{port}.evil.example"},
        {"Origin": "http://localhost:{port}"},  # another origin than the host that is asked for
        {"Origin": "http://app.example.org"},  # not as allowed: https
        {"Origin": "https://app.example.org.evil.example"},
    ],
)
def test_other_pages_are_refused(server, headers):
    headers = {name: value.format(port=server.port) for name, value in headers.items()}
    body, kind = form({"a.jpg": picture(1)})
    before = counts(server)["batch_images_sum"]
    for method, path in (("POST", "/predict"), ("GET", "/"), ("GET", "/run")):
        sent = (body, {"Content-Type": kind}) if method == "POST" else (None, {})
        status, answered, text = server.ask(method, path, sent[0], sent[1] | headers)
        assert status in (400, 403)
        assert "access-control-allow-origin" not in answered
        assert b"error" in text or status == 400
    assert counts(server)["batch_images_sum"] == before


def test_an_allowed_page_may_ask(server):
    origin = {"Origin": "https://app.example.org"}
    asked = origin | {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    status, headers, _ = server.ask("OPTIONS", "/predict", None, asked)
    assert (status, headers["access-control-allow-origin"]) == (200, "https://app.example.org")
    body, kind = form({"a.jpg": picture(1)})
    status, headers, _ = server.ask("POST", "/predict", body, origin | {"Content-Type": kind})
    assert (status, headers["access-control-allow-origin"]) == (200, "https://app.example.org")


def test_browsers_are_told_to_keep_to_this_server(server):
    for path in ("/", "/watch", "/style.css", "/predict.js", "/watch.js", "/icon.svg", "/model", "/none"):
        _, headers, _ = server.ask("GET", path)
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


# Beginning and end


def failure(*arguments: object) -> str:
    """The one line that a command leaves on standard error."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def test_a_port_in_use_is_told_before_the_model_is_read(server, tmp_path):
    said = failure("serve", tmp_path / "none", "--port", server.port)
    assert f"--port={server.port}: another program uses it" in said


def test_weights_that_are_not_finite_are_refused(tmp_path):
    broken = write_run(tmp_path / "broken", broken=True)
    said = failure("serve", broken, "--port", 0, "--batch-size", 1, "--devices", 1)
    assert "finite" in said
    assert str(broken) in said


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_whatever_is_open(run, signum):
    with serving("watch", run) as server:
        idle, half = open_socket(server), open_socket(server)
        half.sendall(b"GET /run HTTP/1.1\r\nHost: ")
        assert server.get("/health") == {"status": "ok"}
        code, out, err = server.end(signum)
        assert (code, out) == (0, "ended\n")
        assert "Traceback" not in err
        idle.close()
        half.close()
