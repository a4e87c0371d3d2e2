"""From a folder of images, a TFDS data set or the demo set to batches. Nothing heavy is imported here."""

from resnext_jax.data.check import DataReport, check_data, check_dataset
from resnext_jax.data.config import DataConfig, open_dataset, read_images
from resnext_jax.data.copies import CheapLook, NameGroups, cheap_look, copies_found
from resnext_jax.data.dataset import Dataset
from resnext_jax.data.files import GivenImages, ImageLike, list_files
from resnext_jax.data.fingerprint import Fingerprint, check_same_images
from resnext_jax.data.images import decode, image_suffixes
from resnext_jax.data.loading import BadImages, Images, Pixels, available_cpus, load_images
from resnext_jax.data.pipeline import (
    Batch,
    WaitTimer,
    check_batch,
    eval_batches,
    prefetch_to_device,
    steps_per_epoch,
    train_batches,
)
from resnext_jax.data.prepare import prepare_tfds
from resnext_jax.data.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Geometry,
    Interpolation,
    Normalize,
    Preprocessing,
)
from resnext_jax.data.sources import Record, Relabelled, Source, Subset
from resnext_jax.data.split import Split, groups_of, limit

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "BadImages",
    "Batch",
    "CheapLook",
    "DataConfig",
    "DataReport",
    "Dataset",
    "Fingerprint",
    "Geometry",
    "GivenImages",
    "ImageLike",
    "Images",
    "Interpolation",
    "NameGroups",
    "Normalize",
    "Pixels",
    "Preprocessing",
    "Record",
    "Relabelled",
    "Source",
    "Split",
    "Subset",
    "WaitTimer",
    "available_cpus",
    "cheap_look",
    "check_batch",
    "check_data",
    "check_dataset",
    "check_same_images",
    "copies_found",
    "decode",
    "eval_batches",
    "groups_of",
    "image_suffixes",
    "limit",
    "list_files",
    "load_images",
    "open_dataset",
    "prefetch_to_device",
    "prepare_tfds",
    "read_images",
    "steps_per_epoch",
    "train_batches",
]
