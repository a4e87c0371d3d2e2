"""Cross-validation by patient on the monkeypox skin lesions: mean and standard deviation over the folds.

    python experiments/monkeypox_crossval.py --data MONKEYPOX
    python experiments/monkeypox_crossval.py --data tfds:monkeypox/augmented --data-dir TFDS
    python experiments/monkeypox_crossval.py --smoke

MONKEYPOX is a folder with the class folders Monkeypox and Others. Each fold validates on patients that the
model has not seen. It trains on augmented copies of photos; where the data are tfds:monkeypox/augmented and
tfds:monkeypox/original lies beside them, it is tested on the held-out patients' photos as they are, else on
their copies. The same command again goes on where it was stopped.
Reproduces: the protocol of Ali et al. 2022 (arXiv 2207.03342): 3 folds by patient, ResNet-50 with ImageNet
weights at 224 px, trained on augmented photos.
Differs from its source: optimiser, rate, batch and epochs are ours, and so is the division into folds, drawn
by --split-seed; a fold's best epoch is chosen by the patients that it is tested on. The weights are
torchvision's (IMAGENET1K_V1).
Reported: accuracy 82.96 +- 4.57 %.
Ours, reduced (2 cores of an AMD EPYC (Zen 3), 2026-11-25):
resnext14_32x4d without weights at 48 px, 10 epochs at 1e-3,
tested on copies: 64.99 +- 3.30 %. See experiments/README.md; the full size was not run yet.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from experiment import run, save_image, train_and_evaluate

import resnext_jax as rj
from resnext_jax.data import Source, open_dataset
from resnext_jax.data.sources import Subset
from resnext_jax.data.split import groups_by_regex
from resnext_jax.runs import write_json

CONFIG = rj.TrainConfig(
    data="monkeypox",
    group_by=r"^(N?M\d+)_",
    fold=(0, 3),
    model="resnet50",
    weights="IMAGENET1K_V1",
    optimizer="adam",
    lr=1e-4,
    batch_size=32,
    epochs=20,
    out=Path("checkpoints/monkeypox_crossval"),
)


def main(config: rj.TrainConfig) -> None:
    """Train and test once for each fold."""
    if config.fold is None:
        raise rj.BadInput("fold=None: expected --fold 0 K for K folds")
    if config.data == "demo":
        config = replace(config, data=str(save_demo(config.out / "demo")))
    folds = range(config.fold[1])
    accuracies = np.array([100 * test_fold(config, fold) for fold in folds])
    mean, deviation = accuracies.mean(), accuracies.std(ddof=1)
    print(
        f"{len(folds)} folds: {', '.join(f'{a:.2f}' for a in accuracies)} %; {mean:.2f} +- {deviation:.2f} %"
    )
    result = {"accuracies": accuracies.tolist(), "mean": mean, "deviation": deviation}
    write_json(config.out / "crossval.json", result)


def test_fold(config: rj.TrainConfig, fold: int) -> float:
    """Train without a fold; the accuracy of the best epoch on the fold's patients."""
    out = config.out / f"fold{fold}"
    begun = (out / "config.json").is_file() and not config.overwrite
    config = replace(config, fold=(fold, config.fold[1]), out=out, resume=begun)
    predictor, metrics = train_and_evaluate(config)
    originals = held_out_originals(config)
    if originals is None:
        return metrics["val"]["top1"]
    tested = predictor.evaluate_source(originals, "original")
    print(f"fold {fold}: {100 * tested['top1']:.2f} % of {tested['images']} original photos")
    return tested["top1"]


def save_demo(folder: Path) -> Path:
    """Images of the demo set, which comes divided, as a folder of twelve patients with eight images each."""
    source = open_dataset("demo").split("train")
    for i in range(96):
        save_image(source, i, folder, f"P{i % 12:02}_{i:02}")
    return folder


def held_out_originals(config: rj.TrainConfig) -> Source | None:
    """The photos as they are of a fold's patients, where they are prepared beside their augmented copies."""
    if not config.data.endswith("/augmented"):
        return None
    name = config.data.removesuffix("augmented") + "original"
    try:
        photos = open_dataset(name, data_dir=config.data_dir).split("all")
    except FileNotFoundError as error:
        print(f"tested on augmented copies: {error}")
        return None

    def patients(source: Source) -> list[str]:
        return groups_by_regex([Path(key).name for key in source.keys], config.group_by)

    held = set(patients(config.open().split("val")))
    return Subset(photos, [i for i, patient in enumerate(patients(photos)) if patient in held])


if __name__ == "__main__":
    run(__doc__, CONFIG, main, smoke={"weights": None, "group_by": r"^(P\d+)_", "fold": (0, 2)})
