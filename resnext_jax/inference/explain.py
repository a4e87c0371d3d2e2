"""Where in an image the evidence for a class lies."""

import difflib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from resnext_jax.console import Update
from resnext_jax.data import Preprocessing
from resnext_jax.errors import BadInput
from resnext_jax.models import ResNet, merge_model, split_model

logger = logging.getLogger(__name__)

COARSE = 4  # rows below which a map hardly locates anything

Method = Literal["grad-cam", "grad-cam++", "occlusion"]
"""How evidence is found: by the gradient at a stage's output (Selvaraju et al. 2017, arXiv 1610.02391;
Chattopadhay et al. 2018, arXiv 1710.11063), or by covering parts of the image (Zeiler and Fergus 2014, arXiv
1311.2901)."""


@dataclass(frozen=True)
class Explanations:
    """Where the evidence for some classes lies in some images.

    Args:
        keys: the images' names.
        originals: the images, upright and in full size, uint8 [h, w, 3] each.
        probabilities: float32 [N, K].
        classes: the K class names.
        targets: int [N, k], the classes that are explained, of each image.
        maps: of their evidence, float32 [N, k, S, S], as `evidence` has them.
        method: how it was found.
        preprocessing: how the network was shown the images.
    """

    keys: list[str]
    originals: list[np.ndarray]
    probabilities: np.ndarray
    classes: tuple[str, ...]
    targets: np.ndarray
    maps: np.ndarray
    method: Method
    preprocessing: Preprocessing

    def over(self, image: int, place: int, size: tuple[int, int] | None = None) -> np.ndarray:
        """A map over the whole original.

        Args:
            image: which image.
            place: which of its k classes.
            size: height and width to have it in; None: the original's.

        Returns:
            float32 [h, w]; NaN where the network did not see the image, because it was cropped.
        """
        height, width = self.originals[image].shape[:2]
        rows, columns = size or (height, width)
        left, top, right, bottom = self.preprocessing.visible(height, width)
        side = self.preprocessing.image_size
        across, down = width / columns * side / (right - left), height / rows * side / (bottom - top)
        shift = (-left * side / (right - left), -top * side / (bottom - top))
        placed = Image.fromarray(self.maps[image, place]).transform(
            (columns, rows),
            Image.Transform.AFFINE,
            (across, 0, shift[0], 0, down, shift[1]),
            Image.Resampling.BILINEAR,
            fillcolor=float("nan"),
        )
        return np.asarray(placed)


def choose_targets(
    probabilities: np.ndarray, names: tuple[str, ...], classes: Sequence[str] | None, top_k: int
) -> np.ndarray:
    """The classes to explain, int [N, k]: those that are named, or each image's most probable.

    Args:
        probabilities: [N, K].
        names: of the K classes.
        classes: names; None: the `top_k` most probable.
        top_k: how many; all of them if there are fewer.

    Raises:
        BadInput: no such class.
    """
    if classes is None:
        if top_k < 1:
            raise BadInput(f"top_k={top_k}: expected at least 1")
        return np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    for name in classes:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(names[:20])}"
            raise BadInput(f"class {name!r}: none of the model's {len(names)} classes; {hint}")
    indices = [names.index(name) for name in classes]
    return np.broadcast_to(np.array(indices), (len(probabilities), len(indices)))


def evidence(
    model: ResNet,
    preprocessing: Preprocessing,
    images: np.ndarray,
    targets: np.ndarray,
    *,
    method: Method = "grad-cam",
    stage: str | None = None,
    patch: int | None = None,
    batch_size: int = 32,
    update: Update | None = None,
) -> np.ndarray:
    """Maps of the evidence for classes.

    Args:
        model: in evaluation form.
        preprocessing: how the images were prepared, and how they are normalised.
        images: uint8 [N, S, S, 3].
        targets: int [N, k], the classes asked for, of each image.
        method: see `Method`.
        stage: whose output's gradient is taken: "stem", "layer1", ...; None: the last. Earlier stages have
            finer maps, of less meaning.
        patch: side of the square that covers, in pixels, for occlusion; None: an eighth of the image's. It
            moves by half of that.
        batch_size: images in a step.
        update: progress: images done.

    Returns:
        float32 [N, k, S, S]. Grad-CAM: not negative, in no unit of its own, so that maps are compared within
        themselves only. Occlusion: by how much the class's probability falls when that place is covered, the
        mean over the squares that cover it; negative if it rises.

    Raises:
        BadInput: an unknown method or stage, or a patch that does not fit.
    """
    if method not in get_args(Method):
        raise BadInput(f"method={method!r}: expected one of {', '.join(get_args(Method))}")
    if method == "occlusion":
        if stage is not None:
            raise BadInput(f"stage={stage!r}: occlusion looks at the whole model; leave it out")
        return _occlusion(model, preprocessing, images, targets, patch, batch_size, update)
    if patch is not None:
        raise BadInput(f"patch={patch}: goes with method='occlusion'")
    known = ("stem", *model.stages)
    if stage is not None and stage not in known:
        raise BadInput(f"stage={stage!r}: expected one of {', '.join(known)}")
    if stage is None:
        stage = known[-1]
        _note_coarse(stage, stage_sizes(model, preprocessing.image_size))
    compute = gradient_maps(model, preprocessing, method, stage)
    maps = []
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        maps.append(np.asarray(compute(images[part], targets[part])))
        if update:
            update(min(start + batch_size, len(images)), "")
    return np.concatenate(maps)


def stage_sizes(model: ResNet, image_size: int) -> dict[str, int]:
    """Rows of every stage's output, "stem" on, for a square image."""
    images = jax.ShapeDtypeStruct((1, image_size, image_size, model.in_channels), jnp.float32)
    outputs = nnx.eval_shape(lambda model, images: model.features(images), model, images)
    return {name: outputs[name].shape[1] for name in ("stem", *model.stages)}


def finest_stage(model: ResNet, image_size: int) -> str:
    """The last stage with enough places to tell them apart; of very small images, the one with the most."""
    sizes = stage_sizes(model, image_size)
    fine = [name for name, size in sizes.items() if size >= COARSE]
    return fine[-1] if fine else next(iter(sizes))


def _note_coarse(stage: str, sizes: dict[str, int]) -> None:
    finer = [name for name, size in sizes.items() if size > sizes[stage]]
    if sizes[stage] < COARSE and finer:
        logger.info(
            "the map of %s has %d x %d places only; stage=%r has %d x %d",
            *(stage, sizes[stage], sizes[stage]),
            *(finer[-1], sizes[finer[-1]], sizes[finer[-1]]),
        )


def grad_cam(activations: jax.Array, gradients: jax.Array) -> jax.Array:
    """The positive part of the channels' sum, each weighted by its mean gradient.

    Args:
        activations: [h, w, C].
        gradients: of a class's logit, [h, w, C].

    Returns:
        [h, w].
    """
    return nnx.relu(jnp.sum(activations * gradients.mean((0, 1)), -1))


def grad_cam_plus_plus(activations: jax.Array, gradients: jax.Array) -> jax.Array:
    """As `grad_cam`, with a weight for every pixel's gradient, so that small and several objects count too.

    The weights are those of the paper's equation 19, for a score that is the exponential of the logit.
    """
    square, cube = gradients**2, gradients**3
    divisor = 2 * square + activations.sum((0, 1)) * cube
    alpha = jnp.where(gradients == 0, 0, square / jnp.where(divisor == 0, 1, divisor))
    return nnx.relu(jnp.sum(activations * (alpha * nnx.relu(gradients)).sum((0, 1)), -1))


METHODS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "grad-cam": grad_cam,
    "grad-cam++": grad_cam_plus_plus,
}


def gradient_maps(
    model: ResNet, preprocessing: Preprocessing, method: Method, stage: str
) -> Callable[[np.ndarray, np.ndarray], jax.Array]:
    """A function that computes what `evidence` does by gradients; it compiles once for each shape.

    Args:
        model: in evaluation form; its weights are taken now.
        preprocessing: how the images were prepared, and how they are normalised.
        method: "grad-cam" or "grad-cam++".
        stage: whose output's gradient is taken: "stem", "layer1", ...

    Returns:
        A function of images, uint8 [N, S, S, 3], and targets, int [N, k], to maps, float32 [N, k, S, S].
    """
    graphdef, params, batch_stats = split_model(model)
    side = preprocessing.image_size
    after = model.stages[0 if stage == "stem" else model.stages.index(stage) + 1 :]
    before = model.stages[: len(model.stages) - len(after)]

    @jax.jit
    def compute(variables: dict, images: jax.Array, targets: jax.Array) -> jax.Array:
        model = merge_model(graphdef, **variables)

        def rest(x: jax.Array) -> jax.Array:
            for name in after:
                x = model.stage(name, x)
            return model.head(model.pool(x))

        x = model.stem(preprocessing.normalize(images))
        for name in before:
            x = model.stage(name, x)
        # Images do not meet in evaluation: the gradient of the batch's sum is each image's own.
        logits, pull_back = jax.vjp(rest, x)

        def one(target: jax.Array) -> jax.Array:
            [gradients] = pull_back(jax.nn.one_hot(target, logits.shape[1], dtype=logits.dtype))
            return jax.vmap(METHODS[method])(x.astype(jnp.float32), gradients.astype(jnp.float32))

        maps = jax.lax.map(one, targets.T).swapaxes(0, 1)
        return jax.image.resize(maps, (*maps.shape[:2], side, side), "linear")

    return lambda images, targets: compute({"params": params, "batch_stats": batch_stats}, images, targets)


def _occlusion(
    model: ResNet,
    preprocessing: Preprocessing,
    images: np.ndarray,
    targets: np.ndarray,
    patch: int | None,
    batch_size: int,
    update: Update | None,
) -> np.ndarray:
    side = preprocessing.image_size
    patch = max(1, side // 8) if patch is None else patch
    if not 1 <= patch <= side:
        raise BadInput(f"patch={patch}: expected 1 to {side} pixels, the side of the image")
    graphdef, params, batch_stats = split_model(model)
    variables = {"params": params, "batch_stats": batch_stats}
    color = np.round(255 * np.asarray(preprocessing.mean)).astype(np.uint8)  # what is normalised to 0

    @jax.jit
    def probabilities(variables: dict, image: jax.Array, corners: jax.Array) -> jax.Array:
        """Of one image, covered from each corner on; [B, K]."""
        pixel = jnp.arange(side)
        rows, columns = ((pixel >= c[:, None]) & (pixel < c[:, None] + patch) for c in corners.T)
        covered = (rows[:, :, None] & columns[:, None, :])[..., None]
        logits = merge_model(graphdef, **variables)(preprocessing.normalize(jnp.where(covered, color, image)))
        return jax.nn.softmax(logits)

    # The last square ends with the image.
    starts = np.unique(np.append(np.arange(0, side - patch, max(1, patch // 2)), side - patch))
    # First one that lies outside and so covers nothing; filled up, for batches of one size.
    corners = np.array([(side, side), *((top, left) for top in starts for left in starts)])
    batches = np.array_split(corners, -(-len(corners) // batch_size))
    size = max(map(len, batches))
    maps = np.zeros((*targets.shape, side, side), np.float32)
    for i, image in enumerate(images):
        found = []
        for batch in batches:
            padded = np.concatenate([batch, np.full((size - len(batch), 2), side)])
            found.append(np.asarray(probabilities(variables, image, padded))[: len(batch)])
        whole, *covered = np.concatenate(found)[:, targets[i]]
        seen = np.zeros((side, side), np.float32)
        for (top, left), values in zip(corners[1:], covered, strict=True):
            square = np.s_[top : top + patch, left : left + patch]
            maps[(i, slice(None), *square)] += (whole - values)[:, None, None]
            seen[square] += 1
        maps[i] /= seen
        if update:
            update(i + 1, "")
    return maps
