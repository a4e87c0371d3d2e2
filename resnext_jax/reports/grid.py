"""Grids of images with their classes."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from resnext_jax.console import printable
from resnext_jax.data import Preprocessing, Source, Subset, load_images
from resnext_jax.data.augment import AugmentConfig, make_augment, make_mix
from resnext_jax.errors import BadInput
from resnext_jax.inference import LabelledPredictions, Predictions
from resnext_jax.reports.fonts import fonts_for

COLUMNS = 6
MOST_DRAWN = 36  # images in a picture
RIGHT, WRONG, NEUTRAL, UNSURE = "#15803d", "#b91c1c", "black", "#6b7280"


def check_format(file: Path) -> None:
    """Check, before any work, that a picture can be written under this name.

    Raises:
        ValueError: an ending that is no picture format.
    """
    known = FigureCanvasBase.get_supported_filetypes()
    if file.suffix[1:].lower() not in known:
        raise BadInput(f"{file}: no picture format; expected an ending of {', '.join(sorted(known))}")


def draw_images(images: np.ndarray, captions: Sequence[str], colors: Sequence[str], file: Path) -> None:
    """Draw images in rows with a caption each.

    Args:
        images: uint8 [N, S, S, 3].
        captions: a text for each, of one or more lines.
        colors: a colour for each caption.
        file: picture to write; the format is by its ending.
    """
    columns = min(COLUMNS, len(images))
    rows = -(-len(images) // columns)
    lines = max(caption.count("\n") + 1 for caption in captions)
    figure = Figure(figsize=(2.1 * columns, (2.0 + 0.2 * lines) * rows), layout="constrained")
    with fonts_for(captions):
        grid = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes in grid:
            axes.axis("off")
        for axes, image, caption, color in zip(grid, images, captions, colors, strict=False):
            axes.imshow(image)
            # Class names may hold what matplotlib takes for mathematics.
            axes.set_title(
                "\n".join(map(printable, caption.split("\n"))), fontsize=9, color=color, parse_math=False
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=110, bbox_inches="tight")


def spread(count: int, most: int = MOST_DRAWN) -> np.ndarray:
    """At most so many of `count` images, spread evenly over them; int [n]."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))


def draw_predictions(
    predictions: Predictions, file: Path, most: int = MOST_DRAWN, *, threshold: float = 0.0
) -> None:
    """Draw predicted images with their class and probability.

    Where an image lies in a folder that is called as a class, that is its true class: the caption names both
    and is green where they agree, red where they don't.

    Args:
        predictions: of some images.
        file: picture to write.
        most: images shown; of more, a sample spread evenly over them.
        threshold: images whose most probable class is less probable are marked as undecided, in grey.
    """
    chosen = spread(len(predictions.keys), most)
    captions, colors = [], []
    tops = predictions.top()
    truths, decided = predictions.true_classes(), predictions.decided(threshold)
    for i in chosen:
        [(name, probability)] = tops[i]
        caption, color = f"{name} {100 * probability:.0f} %", NEUTRAL
        if truths[i] is not None:
            color = RIGHT if truths[i] == name else WRONG
            caption += f"\ntrue: {truths[i]}"
        if decided[i] is None:
            caption, color = f"undecided: {caption}", UNSURE
        captions.append(caption)
        colors.append(color)
    draw_images(predictions.images[chosen], captions, colors, file)


def draw_mistakes(predictions: LabelledPredictions, file: Path, most: int = MOST_DRAWN) -> bool:
    """Draw the images of which the model is surest and wrong, the surest first.

    Args:
        predictions: of a split.
        file: picture to write.
        most: images drawn.

    Returns:
        Whether there are any; otherwise nothing is written.
    """
    chosen = predictions.mistakes(most)
    if not len(chosen):
        return False
    classes, labels = predictions.classes, predictions.labels
    captions = []
    for i in chosen:
        row = predictions.log_probabilities[i]
        guess = int(row.argmax())
        captions.append(
            f"{classes[guess]} {100 * np.exp(row[guess]):.0f} %\n"
            f"true: {classes[labels[i]]} {100 * np.exp(row[labels[i]]):.0f} %\n{shorten(predictions.keys[i])}"
        )
    draw_images(predictions.images.gather(chosen), captions, [WRONG] * len(chosen), file)
    return True


def draw_pairs(source: Source, pairs: Sequence[tuple[str, str]], file: Path, most: int = 18) -> bool:
    """Draw pairs of images side by side, with their names and classes.

    Args:
        source: has the images.
        pairs: their keys.
        file: picture to write.
        most: pairs drawn.

    Returns:
        Whether there are any; otherwise nothing is written.
    """
    if not pairs:
        return False
    index = {key: i for i, key in enumerate(source.keys)}
    chosen = [index[key] for pair in pairs[:most] for key in pair]
    images = load_images(Subset(source, chosen), Preprocessing(128, resize="stretch"), budget_bytes=0)
    captions = [f"{images.classes[images.labels[i]]}\n{shorten(key)}" for i, key in enumerate(images.keys)]
    colors = [NEUTRAL if images.labels[i] == images.labels[i ^ 1] else WRONG for i in range(len(images))]
    draw_images(images.gather(np.arange(len(images))), captions, colors, file)
    return True


def shorten(key: str, most: int = 24) -> str:
    """An image's name in few characters; its end is kept, which tells files apart."""
    return key if len(key) <= most else f"…{key[1 - most :]}"


def draw_samples(source: Source, preprocessing: Preprocessing, count: int, seed: int, file: Path) -> None:
    """Draw images of a data set, chosen at random, with their classes.

    Args:
        source: where to choose from.
        preprocessing: geometry to show them in.
        count: how many images.
        seed: of the choice.
        file: picture to write.
    """
    images, labels, classes = _choose(source, preprocessing, count, seed)
    draw_images(images, [classes[int(label)] for label in labels], [NEUTRAL] * len(images), file)


def draw_augmented(
    source: Source, preprocessing: Preprocessing, config: AugmentConfig, count: int, seed: int, file: Path
) -> None:
    """Draw images of a data set, and beside each what augmentation makes of it, as training would see it.

    Args:
        source: where to choose from.
        preprocessing: geometry before augmentation.
        config: augmentation.
        count: pictures at least, in whole rows.
        seed: of the choice and the augmentation.
        file: picture to write.
    """
    # An even number of rows, because mixup and CutMix work on pairs.
    images, labels, classes = _choose(source, preprocessing, 2 * -(-count // (2 * COLUMNS)), seed)
    augment, mix = make_augment(config), make_mix(config.mixup, config.cutmix)

    @jax.jit
    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        keys, mix_keys = jax.random.split(key, (2, len(images)))
        # Crops of another size are shown in this one.
        augmented = jax.image.resize(augment(keys, jnp.asarray(images)), images.shape, "nearest")
        targets = jax.nn.one_hot(labels, len(classes))
        return mix(mix_keys, augmented, targets) if mix else (augmented, targets)

    draws = [draw(key) for key in jax.random.split(jax.random.key(seed), COLUMNS - 1)]
    columns = [images, *(np.asarray(augmented) for augmented, _ in draws)]
    captions = [[classes[int(label)] for label in labels]]
    captions += [[_describe(target, classes) if mix else "" for target in targets] for _, targets in draws]
    pictures = np.stack(columns, axis=1).reshape(-1, *images.shape[1:])
    texts = [text for row in zip(*captions, strict=True) for text in row]
    draw_images(pictures, texts, [NEUTRAL] * len(texts), file)


def _choose(
    source: Source, preprocessing: Preprocessing, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray, Sequence[str]]:
    """Images uint8 [N, S, S, 3], labels [N] and class names of a random choice."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(source))[:count]  # in random order, so that neighbours mix as in training
    images = load_images(Subset(source, chosen), preprocessing, budget_bytes=0)
    return images.gather(np.arange(len(images))), images.labels, images.classes


def _describe(target: jax.Array, classes: Sequence[str]) -> str:
    """The classes of a soft label with their shares, the greatest first."""
    shares = [(float(share), name) for share, name in zip(target, classes, strict=True) if share > 0]
    return "\n".join(f"{100 * share:.0f} % {name}" for share, name in sorted(shares, reverse=True))
