"""Fine-tune an ImageNet ResNeXt-50 32x4d on a folder of images.

    python experiments/transfer_resnext50.py --data FOLDER                     # torchvision's weights
    python experiments/transfer_resnext50.py --data FOLDER --freeze backbone   # a new head alone
    python experiments/transfer_resnext50.py --data FOLDER --weights RUN       # another run's weights
    python experiments/transfer_resnext50.py --smoke                           # no weights: no download

FOLDER holds a folder of images for each class.
Reproduces: the pretrained network with a new head, all of it trained at a low rate, the head at ten times
that; then one image is predicted, and a folder of them in batches, to a table, a CSV file and a picture.
`groups` and `width_per_group` are two integers on the one ResNet class, as in torchvision.
Differs from its source: optimiser, rates, batch, epochs, schedule and flips are ours. DEFAULT are
torchvision's weights of the second recipe (IMAGENET1K_V2); --weights IMAGENET1K_V1 takes those of the first.
Reported: no figure.
Ours, reduced (2 cores of an AMD EPYC (Zen 3), 2026-11-25):
ResNet-18 from the CIFAR-10 run to monkeypox by patient at 48 px,
4 epochs, 3 seeds: 65.6 +- 7.0 %. See experiments/README.md; the full size was not run yet.
"""

from pathlib import Path

from experiment import run, save_images, train_and_evaluate

import resnext_jax as rj
from resnext_jax.reports import grid, rows

CONFIG = rj.TrainConfig(
    data="images",
    model="resnext50_32x4d",
    weights="DEFAULT",
    flip=True,
    optimizer="adam",
    lr=1e-4,
    head_lr=1e-3,
    batch_size=32,
    epochs=10,
    schedule="cosine",
    out=Path("checkpoints/transfer_resnext50"),
)


def main(config: rj.TrainConfig) -> None:
    """Fine-tune, evaluate, predict one image and a folder of images."""
    predictor, _ = train_and_evaluate(config)
    folder = save_images(config, "val", count=18)
    one = next(folder.rglob("*.png"))
    rows.print_predictions(predictor.predict([one]), top_k=3)

    predictions = predictor.predict([folder], batch_size=8)
    rows.print_predictions(predictions, top_k=1)
    rows.write_predictions(predictions, config.out / "predictions.csv")
    grid.draw_predictions(predictions, config.out / "predictions.png")


if __name__ == "__main__":
    run(__doc__, CONFIG, main, smoke={"weights": None})
