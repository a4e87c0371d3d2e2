"""README's pictures of what the commands make, from two real runs on the demo data.

    python experiments/readme_pictures.py

Trains the runs, unless they are there, and repeats every command: about 5 minutes on 2 cores. The pages are
drawn by Debian's chromium with its driver (`pip install selenium`); without them those three pictures stay as
they are. All pictures together are under 300 kB.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from code import InteractiveConsole
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import tyro
from experiment import save_image
from PIL import Image, ImageDraw, ImageFont

from resnext_jax.data import open_dataset

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

PICTURES = Path(__file__).parent / "results" / "pictures"
TRAIN = "--data demo --image-size 64 --epochs 3 --batch-size 32 --optimizer adam --lr 1e-3"
TRAIN += " --schedule cosine --flip"
RUNS = {"mine": "resnext14_32x4d", "other": "resnet18"}
WIDTH = 560  # pixels, twice what README shows
PHONE, SHEET = (420, 720), (640, 840)  # windows of the browser
COLUMNS = 68  # of the terminal, at most


@dataclass(frozen=True)
class ReadmePictures:
    """Draw README's pictures of what the commands make."""

    work: Path = Path("checkpoints/readme")
    """Folder for the runs and what the commands write."""
    only: tuple[str, ...] = ()
    """Names of the pictures to draw (default: all)."""

    def __call__(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        PICTURES.mkdir(exist_ok=True)
        os.chdir(self.work)
        for name, model in RUNS.items():
            if not Path(name, "summary.json").exists():
                resnext_jax(f"train {TRAIN} --model {model} --out {name} --overwrite")
        photos = save_photos()
        drawn = {
            "explain": lambda: explain(photos),
            "predict": predict,
            "evaluate": evaluate,
            "compare": compare,
            "export": lambda: export(photos),
            "report": report,
            "serve": lambda: serve(photos),
            "watch": watch,
        }
        for name in self.only or drawn:
            if picture := drawn[name]():
                save(picture, PICTURES / f"{name}.webp")


def save_photos() -> list[Path]:
    """Some test images of the demo set, as files in a folder for each class."""
    source = open_dataset("demo").split("test")
    for i in range(12):
        save_image(source, i, Path("photos"), f"{i:02d}")
    return sorted(Path("photos").rglob("*.png"))


def resnext_jax(arguments: str) -> str:
    """Run the command; what it prints."""
    command = [sys.executable, "-m", "resnext_jax.cli", *shlex.split(arguments)]
    environment = os.environ | {"COLUMNS": str(COLUMNS)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return done.stdout


def explain(photos: list[Path]) -> Image.Image:
    some = " ".join(map(str, (photos[0], photos[4], photos[8])))
    resnext_jax(f"explain mine {some} --stage layer3 --out explain.png")
    return Image.open("explain.png")


def predict() -> Image.Image:
    resnext_jax("predict mine photos --grid predict.png")
    return Image.open("predict.png")


def evaluate() -> Image.Image:
    resnext_jax("evaluate mine --mistakes mistakes.png")
    return Image.open("mistakes.png")


def compare() -> Image.Image:
    return terminal("$ resnext-jax compare mine other\n" + resnext_jax("compare mine other"))


def export(photos: list[Path]) -> Image.Image:
    """The exported file, made and used."""
    command = "resnext-jax export mine model.onnx"
    program = [
        "import numpy as np, onnxruntime",
        "from PIL import Image",
        f"photo = Image.open('{photos[4]}').resize((64, 64))",
        "session = onnxruntime.InferenceSession('model.onnx')",
        "session.get_modelmeta().custom_metadata_map['classes']",
        "session.run(None, {'images': np.array(photo)[None]})[0]",
    ]
    shown = io.StringIO()
    shown.write(f"$ {command}\n{resnext_jax('export mine model.onnx')}$ python\n")
    python = InteractiveConsole()
    with contextlib.redirect_stdout(shown):
        for line in program:
            print(">>>", line)
            python.push(line)
    return terminal(shown.getvalue())


def report() -> Image.Image | None:
    resnext_jax("report mine --out report.html")
    with browser() as page:
        if page is None:
            return None
        page.open(Path("report.html").resolve().as_uri(), SHEET)
        return page.screenshot()


def serve(photos: list[Path]) -> Image.Image | None:
    with browser() as page:
        if page is None:
            return None
        with server("serve") as url:
            page.open(url, PHONE)
            page.find("#files").send_keys(str(photos[8].resolve()))
            page.until(lambda: page.all(".classes button"))
            page.find(".classes button").click()
            page.until(lambda: page.run("return document.querySelector('.map').naturalWidth > 0"))
            page.run("scrollTo({ top: 0, behavior: 'instant' })")
            return page.screenshot()


def watch() -> Image.Image | None:
    with browser() as page:
        if page is None:
            return None
        with server("watch") as url:
            page.open(url, SHEET)
            page.until(lambda: page.all(".chart svg"))
            return page.screenshot()


@contextmanager
def server(command: str) -> Iterator[str]:
    """A process of `serve` or `watch`; its address."""
    arguments = [sys.executable, "-m", "resnext_jax.cli", command, "mine", "--port", "0"]
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    )
    try:
        yield next(found.group() for line in process.stdout if (found := re.search(r"http://\S+:\d+/", line)))
    finally:
        process.terminate()
        process.communicate()


class Page:
    """A page in a browser."""

    def __init__(self, driver: Any):
        self.driver = driver
        self.run = driver.execute_script

    def open(self, url: str, size: tuple[int, int]) -> None:
        # As on a phone: without scroll bars.
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": True}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get(url)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def until(self, condition: Any) -> None:
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.driver, 120).until(lambda _: condition())

    def screenshot(self) -> Image.Image:
        return Image.open(io.BytesIO(self.driver.get_screenshot_as_png()))


@contextmanager
def browser() -> Iterator[Page | None]:
    """Chromium without a window, where it is installed."""
    if not CHROMIUM or not DRIVER:
        print("chromium or its driver is not installed: the pictures of pages stay as they are")
        yield None
        return
    running = chrome()
    try:
        yield Page(running)
    finally:
        running.quit()


def chrome(*flags: str) -> Any:
    """Chromium without a window, started with these flags and some of its own; a selenium driver."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    for flag in ("--headless=new", "--disable-dev-shm-usage", *root, *flags):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options, Service(DRIVER))


def terminal(text: str) -> Image.Image:
    """Text as a terminal shows it."""
    file = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSansMono.ttf")
    font = ImageFont.truetype(file, 15)
    rows = [row for line in text.rstrip().splitlines() for row in wrapped(line)]
    left, _, right, _ = font.getbbox("m" * max(map(len, rows)))
    height = 21
    image = Image.new("RGB", (int(right - left) + 32, height * len(rows) + 32), "#1e2127")
    draw = ImageDraw.Draw(image)
    for i, row in enumerate(rows):
        entered = row.startswith(("$ ", ">>> "))
        draw.text((16, 16 + height * i), row, "#ffffff" if entered else "#b6bdca", font)
    return image


def wrapped(line: str) -> list[str]:
    """A line, broken between words where it is too long."""
    return textwrap.wrap(line, COLUMNS, replace_whitespace=False, drop_whitespace=False) or [""]


def save(picture: Image.Image, file: Path) -> None:
    """Write a picture of README's width."""
    height = round(picture.height * WIDTH / picture.width)
    picture = picture.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS)
    picture.save(file, quality=70, method=6)
    print(f"{file}: {WIDTH} x {height}, {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    tyro.cli(ReadmePictures)()
