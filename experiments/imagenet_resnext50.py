"""ResNeXt-50 32x4d on ImageNet by torchvision's two recipes.

    python experiments/imagenet_resnext50.py v1 --data-dir TFDS
    python experiments/imagenet_resnext50.py v2 --data-dir TFDS
    python experiments/imagenet_resnext50.py v2 --data IMAGENET       # train/ and val/ of class folders
    python experiments/imagenet_resnext50.py v2 --data-dir TFDS --distributed     # on every host
    python experiments/imagenet_resnext50.py v2 --smoke

TFDS holds imagenet2012 as array_record files. Of many hosts each runs the same command; JAX finds the others
by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID or by what the cluster says, and --out is a
directory that all of them see.
Reproduces: torchvision's references/classification, as the model's published weights were trained on 8 GPUs:
v1: SGD 0.1, momentum 0.9, weight decay 1e-4, batch 256, a tenth of the rate every 30 of 100 epochs;
    random-resized-crop and flip; validated on the centre 224 px of 256.
v2: SGD 0.5, weight decay 2e-5 but for norms, batch 1024, 5 epochs of warm-up, cosine, 600 epochs; crops of
    176 px, TrivialAugment, erasing 0.1, mixup 0.2 or CutMix 1, label smoothing 0.1, each image 4 times an
    epoch over a quarter of the images, averaged weights; validated on the centre 224 px of 232.
Reported: 77.618 % (v1), 81.198 % (v2).
Ours: not run, needs GPUs and the data.

Where it differs: images are stored as squares (the centre 224 px, which the crops are drawn from, after a
resize to 256 or 232), the rate changes with every step and not every epoch, and the average is moved after
every step by what torchvision moves it every 32nd, from the first step on.
"""

import sys
from dataclasses import replace
from pathlib import Path

from experiment import run, train_and_evaluate

import resnext_jax as rj

V1 = rj.TrainConfig(
    data="tfds:imagenet2012",
    image_size=224,
    resize_size=256,
    random_resized_crop=(0.08, 1.0),
    flip=True,
    model="resnext50_32x4d",
    optimizer="sgd",
    lr=0.1,
    momentum=0.9,
    weight_decay=1e-4,
    batch_size=256,
    epochs=100,
    schedule="step",
    milestones=(30, 60, 90),
    out=Path("checkpoints/imagenet_resnext50_v1"),
)

# torchvision's own decay of 0.99998, as it scales it: by batch size and epochs, for every 32nd step.
EMA_DECAY = (1 - (1 - 0.99998) * 1024 * 32 / 600) ** (1 / 32)

V2 = replace(
    V1,
    resize_size=232,
    crop_size=176,
    auto="trivial",
    erase=0.1,
    mixup=0.2,
    cutmix=1.0,
    repeats=4,
    lr=0.5,
    weight_decay=2e-5,
    norm_weight_decay=0.0,
    label_smoothing=0.1,
    ema_decay=EMA_DECAY,
    batch_size=1024,
    epochs=600,
    schedule="cosine",
    milestones=(),
    warmup_epochs=5,
    out=Path("checkpoints/imagenet_resnext50_v2"),
)

SMOKE = {
    "v1": {"resize_size": 36, "milestones": (1,)},
    "v2": {"resize_size": 36, "crop_size": 24, "epochs": 2, "warmup_epochs": 1},
}

if __name__ == "__main__":
    recipe = sys.argv.pop(1) if sys.argv[1:] and sys.argv[1] in SMOKE else "v2"
    run(__doc__, {"v1": V1, "v2": V2}[recipe], train_and_evaluate, smoke=SMOKE[recipe])
