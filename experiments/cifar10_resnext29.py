"""The ResNeXt paper's CIFAR model, ResNeXt-29 8x64d, on CIFAR-10.

    python experiments/cifar10_resnext29.py --data-dir TFDS
    python experiments/cifar10_resnext29.py --data-dir TFDS --model resnext29_16x64d
    python experiments/cifar10_resnext29.py --smoke

TFDS is where `resnext-jax data prepare tfds:cifar10 --data-dir TFDS` has put the data set.
Reproduces: Xie et al. 2017 (arXiv 1611.05431), section 5.3: crops of images padded by 4 pixels, flips, SGD
at 0.1 with Nesterov momentum 0.9, weight decay 5e-4, batch 128, 300 epochs, a tenth of the rate at 150 and at
225.
Differs from its source, as far as this is known here: a run is one seed, and its best epoch is chosen by the
test images (its last is not); weights start as torchvision's do, pixels are normalised by ImageNet's mean
and deviation, and on several devices each takes batch statistics of its own images.
Reported: 96.35 % (8x64d, 34.4 M parameters) and 96.42 % (16x64d, 68.1 M); means of ten runs.
Ours, reduced (2 cores of an AMD EPYC (Zen 4), 2026-11-25):
8x16d, 1,280 images, 4 epochs in batches of 16, 3 seeds: 32.2 +- 2.2 %.
See experiments/README.md; the full size was not run yet.
"""

from pathlib import Path

from experiment import run, train_and_evaluate

import resnext_jax as rj

CONFIG = rj.TrainConfig(
    data="tfds:cifar10",
    image_size=32,
    pad_crop=4,
    flip=True,
    model="resnext29_8x64d",
    optimizer="sgd",
    nesterov=True,
    lr=0.1,
    weight_decay=5e-4,
    batch_size=128,
    epochs=300,
    schedule="step",
    milestones=(150, 225),
    out=Path("checkpoints/cifar10_resnext29"),
)

if __name__ == "__main__":
    run(__doc__, CONFIG, train_and_evaluate, smoke={"milestones": (1,)})
