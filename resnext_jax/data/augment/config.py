"""What augmentation a run asks for: one frozen record, whose fields are flags of `train` and `data show`."""

import typing
from dataclasses import dataclass
from typing import Literal

from resnext_jax.data.augment.auto import Policy
from resnext_jax.data.augment.warp import Fill
from resnext_jax.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of training images; everything is off by default.

    It happens on the device, in the order of the fields. Crop, rotation, shift, shear and zoom are one affine
    warp, so an image is resampled once however many of them are asked for.
    """

    flip: bool = False
    """Mirror each training image left to right with probability 1/2."""
    pad_crop: int = 0
    """Pad training images by this many black pixels and cut the size out at a random place (CIFAR: 4)."""
    random_resized_crop: tuple[float, float] | None = None
    """Cut out a part of each training image, its share of the area drawn from this range and its aspect from
    3/4 to 4/3, and stretch it to the whole size (ImageNet: 0.08 1; torchvision's RandomResizedCrop)."""
    crop_size: int | None = None
    """Side of what random_resized_crop makes, in pixels, where training is to see other sizes than validation
    (Touvron et al. 2019; torchvision: 176 of 224)."""
    rotate: float = 0.0
    """Turn training images by up to this many degrees either way (Keras' rotation_range)."""
    shift: float = 0.0
    """Shift training images by up to this fraction of their size, along and across (Keras' width_shift_range
    and height_shift_range, torchvision's translate)."""
    shear: float = 0.0
    """Shear training images along their rows by up to this many degrees either way (shear_range)."""
    zoom: float = 0.0
    """Scale training images by a factor of up to 1 -+ this, along and across independently (zoom_range)."""
    fill: Literal["nearest", "reflect", "constant"] = "nearest"
    """What appears where a warped image ends: its border pixel, its mirror image, or black (fill_mode)."""
    auto: Literal["none", "trivial", "rand"] = "none"
    """TrivialAugmentWide (Müller & Hutter 2021) or RandAugment (Cubuk et al. 2020; 2 operations of magnitude
    9), with torchvision's operations and magnitudes."""
    brightness: float = 0.0
    """Multiply brightness by a factor of up to 1 -+ this (as the next three: torchvision's ColorJitter)."""
    contrast: float = 0.0
    """Multiply contrast by a factor of up to 1 -+ this."""
    saturation: float = 0.0
    """Multiply saturation by a factor of up to 1 -+ this."""
    hue: float = 0.0
    """Turn the hue by up to this fraction of the colour circle either way, at most 0.5."""
    erase: float = 0.0
    """Probability of erasing a rectangle of a training image (Zhong et al. 2017): 2 to 33 % of its area."""
    mixup: float = 0.0
    """Blend pairs of training images and their labels by a weight from Beta(this, this); 0 is off (Zhang et
    al. 2018)."""
    cutmix: float = 0.0
    """Paste a rectangle of another training image, and its share of the label, with an area from Beta(this,
    this); 0 is off (Yun et al. 2019). With mixup, each image gets one of the two."""

    def check(self) -> None:
        """Check the fields.

        Raises:
            ValueError: a field out of range, or two that contradict each other; the message names them.
        """
        for name, choices in (("fill", typing.get_args(Fill)), ("auto", ("none", *typing.get_args(Policy)))):
            if getattr(self, name) not in choices:
                raise BadInput(f"{name}={getattr(self, name)!r}: expected one of {', '.join(choices)}")
        limits = {"rotate": 180, "shift": 1, "shear": 80, "zoom": 0.95, "hue": 0.5, "erase": 1}
        limits |= {"brightness": 10, "contrast": 10, "saturation": 10, "mixup": 100, "cutmix": 100}
        for name, limit in limits.items():
            if not 0 <= getattr(self, name) <= limit:
                raise BadInput(f"{name}={getattr(self, name)}: expected a number from 0 to {limit}")
        if self.crop_size is not None:
            if self.crop_size < 1:
                raise BadInput(f"crop_size={self.crop_size}: expected at least 1")
            if self.random_resized_crop is None:
                raise BadInput(
                    f"crop_size={self.crop_size} without random_resized_crop: it is that crop's size"
                )
        if self.pad_crop < 0:
            raise BadInput(f"pad_crop={self.pad_crop}: expected 0 or more pixels")
        if self.random_resized_crop:
            low, high = self.random_resized_crop
            if not 0 < low <= high <= 1:
                raise BadInput(
                    f"random_resized_crop={low} {high}: expected two rising shares of the area, above 0 and "
                    "at most 1"
                )
            if self.pad_crop:
                raise BadInput(f"random_resized_crop with pad_crop={self.pad_crop}: choose one crop")
        reaching_outside = self.rotate or self.shift or self.shear or self.zoom or self.auto != "none"
        if self.fill != "nearest" and not reaching_outside:
            raise BadInput(f"fill={self.fill!r} without rotate, shift, shear, zoom or auto: nothing to fill")
