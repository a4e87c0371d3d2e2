"""A shallower ResNeXt with Keras' norms on the monkeypox skin lesions, by plain SGD.

    python experiments/monkeypox_resnext50_sgd.py --data MONKEYPOX
    python experiments/monkeypox_resnext50_sgd.py --smoke

MONKEYPOX is a folder with the class folders Monkeypox and Others, or tfds:monkeypox/augmented.
Reproduces: 2, 3, 5 and 2 blocks in the stages, BatchNorm epsilon 1.001e-5 (19,051,304 parameters at 1000
classes), 224 px, SGD at 1e-4 without momentum, batch 32, 20 epochs, a random fifth of the images to test on;
then one image is predicted.
Differs from its source: the source trains a head of 1000 outputs on the two classes, 998 of which only learn
to be small; ours has two. It starts from torch's default initialisation, not torchvision's: --exact takes it
(--init torch).
Reported: no figure.
Ours, reduced (2 cores of an AMD EPYC (Zen 3), 2026-11-25):
640 images at 48 px, 3 epochs, 3 seeds: 53.2 +- 1.8 %, a guess's accuracy.
See experiments/README.md; the full size was not run yet.
"""

from pathlib import Path

from experiment import run, save_images, train_and_evaluate

import resnext_jax as rj
from resnext_jax.reports import rows

CONFIG = rj.TrainConfig(
    data="monkeypox",
    resize="stretch",
    model="resnext38_32x4d",
    optimizer="sgd",
    momentum=0.0,
    lr=1e-4,
    batch_size=32,
    epochs=20,
    out=Path("checkpoints/monkeypox_resnext50_sgd"),
)


def main(config: rj.TrainConfig) -> None:
    """Train, evaluate, and predict one image."""
    predictor, _ = train_and_evaluate(config)
    image = save_images(config, "val", count=1)
    rows.print_predictions(predictor.predict([image]), top_k=2)


if __name__ == "__main__":
    run(__doc__, CONFIG, main, exact={"init": "torch"})
