"""A whole workflow on train/val/test folders: augmentation, plateaus, early stop, TensorBoard, reports.

    python experiments/folders_resnext50_full.py --data FOLDER
    python experiments/folders_resnext50_full.py --data FOLDER --exact   # with the source's own network
    python experiments/folders_resnext50_full.py --resume           # after an interruption
    python experiments/folders_resnext50_full.py --smoke

FOLDER holds train/, val/ and test/, each with a folder of images for each class; of class folders alone a
fifth is held out to validate on, and there is no test.
Reproduces: a "grouped" block that convolves all channels once for every group, which is no ResNeXt's but a
wide ResNet's: 68,883,240 parameters at 1000 classes, torchvision's wide_resnet50_2, so called here. 224 px,
rotation by 20 degrees, shifts by 0.2, shear by 0.2 (degrees to Keras), zoom 0.2, flips, nearest fill; Adam at
1e-3, halved after 3 epochs without better validation loss (to 1e-6 at least), stopped after 8, the best
restored; TensorBoard; evaluation on val and test; a picture of predictions with true class, predicted class
and probability; a table of stage shapes and parameters.
Differs from its source: the network pads as torch does, its norms have torch's epsilon and momentum, and
images are resized bilinearly and normalised by ImageNet's mean and deviation. The source is Keras': "same"
padding, epsilon 1.001e-5, momentum 0.99 (wide_resnet50_2_keras of networks.py), images resized to the nearest
pixels and divided by 255: --exact takes these.
Reported: no figure.
Ours, reduced (2 cores of an AMD EPYC (Zen 4), 2026-11-25):
monkeypox by patient, 480 training images at 48 px, 4 epochs, 3 seeds:
54.8 +- 1.9 % on val, 58.3 +- 2.0 % on test. See experiments/README.md; the full size was not run yet.
"""

from pathlib import Path

import networks
from experiment import run, save_images, train_and_evaluate

import resnext_jax as rj
from resnext_jax.models import abstract_model, stage_costs
from resnext_jax.reports import confusion, grid, tables

CONFIG = rj.TrainConfig(
    data="images",
    resize="stretch",
    rotate=20,
    shift=0.2,
    shear=0.2,
    zoom=0.2,
    flip=True,
    fill="nearest",
    model="wide_resnet50_2",
    optimizer="adam",
    lr=1e-3,
    batch_size=32,
    epochs=50,
    schedule="plateau",
    plateau_factor=0.5,
    plateau_patience=3,
    min_lr=1e-6,
    monitor="loss",
    early_stop=8,
    tensorboard=True,
    out=Path("checkpoints/folders_resnext50_full"),
)


def main(config: rj.TrainConfig) -> None:
    """Summarise the model, train it, evaluate the best epoch, draw its predictions."""
    dataset = config.open()
    model = abstract_model(config.model, num_classes=len(dataset.classes))
    tables.print_summary(stage_costs(model, config.image_size))
    splits = ("val", "test") if dataset.test is not None else ("val",)
    predictor, metrics = train_and_evaluate(config, *splits)
    last = splits[-1]
    confusion.draw_confusion(metrics[last]["confusion"], predictor.classes, config.out / "confusion.png")
    predictions = predictor.predict([save_images(config, last, count=36)])
    grid.draw_predictions(predictions, config.out / "predictions.png")
    print(f"curves, confusion matrix, predictions and TensorBoard's files are in {config.out}")


if __name__ == "__main__":
    exact = {
        "model": networks.WIDE_RESNET50_2_KERAS,
        "interpolation": "nearest",
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
    }
    run(__doc__, CONFIG, main, exact=exact)
