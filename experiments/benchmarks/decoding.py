"""How many images a second get from JPEG files to batches, ours beside torch's DataLoader with torchvision?

Run:       python experiments/benchmarks/decoding.py [FOLDER]    (FOLDER holds class folders of JPEG files)
Hardware:  1 CPU core; about a minute. Processor time, the least of some turns: other work counts little.
Expected:  less time than torch's, for the same pixels: shorter side to 256 pixels, centre crop to 224.

Measured on a core of an Intel Xeon that other work shared, Pillow 13.0, simplejpeg 1.9: 2.99 ms an image, so
334 per second, against 3.19 ms and 314 of torch's (ratio 0.94). Of that, decoding takes 1.03 ms, Pillow's
resize 1.30, copies into and out of Pillow's four bytes a pixel 0.34; the rest is reading, EXIF and batches.
So decoding and resize alone allow 430 images a second: more of the same pixels needs another resize that
equals Pillow's to the bit. Resizing only what the crop keeps changes up to 0.1 % of the values by 1. Pillow's
two passes made apart, each of what the crop keeps of it, give the same pixels, but save only 0.1 to 0.2 ms.
"""

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.append(str(Path(__file__).parents[1]))
from port_torchvision import import_torchvision

from resnext_jax.data import Preprocessing, decode, eval_batches, load_images, open_dataset

BATCH = 40


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or draw(Path(temporary))
        compare(folder, arguments.turns)


def draw(folder: Path, count: int = 400) -> Path:
    """Smooth images with the noise of a camera, as JPEG files of two classes."""
    source = open_dataset("demo").split("train")
    for i in range(count):
        record = source[i]
        image = Image.fromarray(decode(record["image"], record["key"])).resize((500, 375), Image.BICUBIC)
        noise = np.random.default_rng(i).integers(-14, 15, (375, 500, 3))
        file = folder / "ab"[i % 2] / f"{i:04}.jpg"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8)).save(file, quality=92)
    return folder


def compare(folder: Path, turns: int) -> None:
    """Print the processor time of an image for both, and their ratio."""
    source = open_dataset(str(folder)).split("all")
    images = load_images(source, Preprocessing(224, 256), budget_bytes=0, workers=1)
    torchvision = import_torchvision()
    transforms = torchvision.transforms
    steps = [transforms.Resize(256), transforms.CenterCrop(224), transforms.PILToTensor()]
    loader = torch.utils.data.DataLoader(Files(folder, source, transforms.Compose(steps)), BATCH)

    ours_first = next(eval_batches(images, batch_size=BATCH))["image"][0]
    theirs_first = next(iter(loader)).permute(0, 2, 3, 1).numpy()
    same = np.array_equal(ours_first, theirs_first)

    readers = {
        "resnext_jax": lambda: sum(1 for _ in eval_batches(images, batch_size=BATCH)),
        "torch DataLoader": lambda: sum(1 for _ in loader),
    }
    least = dict.fromkeys(readers, float("inf"))
    for _, (name, read) in itertools.product(range(turns), readers.items()):
        least[name] = min(least[name], processor_time(read) / len(source))
    for name, seconds in least.items():
        print(f"{name:18} {1e3 * seconds:.2f} ms an image, {1 / seconds:.0f} images/s a core")
    ours, theirs = least.values()
    print(f"ratio {ours / theirs:.2f}; the same pixels: {'yes' if same else 'no'}")


def processor_time(work: Callable[[], object]) -> float:
    """Seconds of processor time, of all threads."""
    start = time.process_time()
    work()
    return time.process_time() - start


class Files(torch.utils.data.Dataset):
    """The same files in the same order, as torchvision's ImageFolder opens them."""

    def __init__(self, folder: Path, source: object, transform: Callable):
        self.files, self.transform = [folder / key for key in source.keys], transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        with self.files[index].open("rb") as file:
            return self.transform(Image.open(file).convert("RGB"))


if __name__ == "__main__":
    main()
