"""What do 100,000 images cost: to be looked at, before a run's first step, to be predicted; and streaming?

Run:       python experiments/benchmarks/large_sets.py [check start predict stream] [--images 100000]
Hardware:  2 CPU cores; about 700 MB of disk for a while, removed afterwards; 15 minutes for all.
Expected:  on 2 cores `data check` within 10 minutes, a run's first step within 20 s, `predict` below 1 GiB
           however many images there are, and streaming with two threads on two cores.

The images are JPEG files of 128 x 96 pixels in 1,000 classes. Each line gives the processor time of all
threads, which other work on the machine changes little, the time on the clock, which it does, and the peak
memory.

Measured on 2 cores of an Intel Xeon that other work shared, jax 0.10.2:

    to the first step       7.5 s of processor time,   7.6 s on the clock, 0.52 GiB
    data check              327 s of processor time,   274 s on the clock, 0.62 GiB
    predict, resnet10t      127 s of processor time,   173 s on the clock, 0.38 GiB (3,000 images: 0.38 GiB)
    predict, resnext50      106 s of processor time for 1,000 images,      0.63 GiB (100 images: 0.76 GiB)

Streaming with two threads used 1.93 cores of the 1.97 that were free, on the same machine without other work.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
from decoding import draw as draw_photos
from PIL import Image

from resnext_jax.data import Images, Preprocessing, eval_batches, load_images, open_dataset

COMMAND = (sys.executable, "-c", "from resnext_jax.cli import main; main()")
CLASSES = 1000


def main() -> None:
    measures = {"check": check, "start": start, "predict": predict, "stream": stream}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", default=list(measures), metavar="|".join(measures))
    parser.add_argument("--images", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "images"
        if set(arguments.what) - {"stream"}:
            with ProcessPoolExecutor() as pool:
                list(pool.map(partial(draw_class, folder, arguments.images // CLASSES), range(CLASSES)))
        for name in arguments.what:
            measures[name](folder)


def draw_class(folder: Path, count: int, label: int) -> None:
    """Write the images of a class: coarse patterns of its own with noise, no two the same."""
    rng = np.random.default_rng(label)
    (of_class := folder / f"class{label:04}").mkdir(parents=True)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize((128, 96))
        noise = rng.integers(-9, 10, (96, 128, 3), np.int16)
        pixels = (np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(of_class / f"{i:05}.jpg", quality=85)


def check(folder: Path) -> None:
    """`data check`: decode, hash, and compare each image with each other."""
    run("data check", "data", "check", str(folder), "--json")


def start(folder: Path) -> None:
    """From the command to the first step; the second time, compiled programs come from the cache."""
    options = ["--model", "resnet18", "--image-size", "64", "--cache-gib", "0", "--overwrite"]
    for which in ("first", "second"):
        command = ["train", "--data", str(folder), *options, "--out", str(folder.parent / "run")]
        run(f"to the first step, {which} time", *command, until="compiled the training step")


def predict(folder: Path) -> None:
    """All images through a small network, and some and more through ResNeXt-50 at 224 pixels."""
    for model, size, patterns in (
        ("resnet10t", 32, ["class00*", "class*"]),
        ("resnext50_32x4d", 224, ["class0000", "class000[0-3]"]),
    ):
        trained = folder.parent / model
        options = ["--model", model, "--image-size", str(size), "--epochs", "1", "--batch-size", "8"]
        subprocess.run(
            [*COMMAND, "train", *options, "--train-limit", "16", "--val-limit", "8", "--out", str(trained)],
            check=True,
            capture_output=True,
        )
        for pattern in patterns:
            count = sum(len(list(path.iterdir())) for path in folder.glob(pattern))
            given = ["predict", str(trained), str(folder / pattern), "--csv", str(folder.parent / "rows.csv")]
            run(f"{model} at {size} px, {count:,} images", *given)


def stream(folder: Path) -> None:
    """Decoding by two threads, and what two threads get that need no interpreter; other work takes cores."""
    (photos := folder.parent / "photos").mkdir()
    source = open_dataset(str(draw_photos(photos))).split("all")
    images = load_images(source, Preprocessing(224, 256), budget_bytes=0, workers=2)
    with ThreadPoolExecutor(2) as pool:
        turns = [
            (cores(lambda: list(pool.map(sha256, [bytes(100_000_000)] * 8))), cores(lambda: read(images)))
            for _ in range(10)
        ]
    free, used = max(turns)
    print(f"streaming with two threads: {used:.2f} cores in use, of {free:.2f} that were free")


def read(images: Images) -> int:
    """Decode all images into batches; how many there are."""
    return sum(1 for _ in eval_batches(images, batch_size=40))


def cores(work: Callable[[], object]) -> float:
    """Processor time over time on the clock."""
    processor, clock = time.process_time(), time.perf_counter()
    work()
    return (time.process_time() - processor) / (time.perf_counter() - clock)


def run(what: str, *arguments: str, until: str | None = None) -> None:
    """Print what a command takes, to its end or until it prints a line that starts so."""
    began = time.perf_counter()
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if until and line.startswith(until):
                process.terminate()
                break
        clock = time.perf_counter() - began
        process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    processor, gib = used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20
    print(f"{what}: {processor:.1f} s of processor time, {clock:.1f} s on the clock, {gib:.2f} GiB")
    if process.returncode > 0:
        raise SystemExit(process.returncode)


if __name__ == "__main__":
    main()
