"""What augmentation a run asks for: one frozen record, whose fields are flags of `train` and `data show`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from resnext_jax.data.augment.warp import Fill
from resnext_jax.errors import BadInput
from resnext_jax.fields import Config, GoesWith, NotWith, Range, shown


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Config):
    """Augmentation of training images; everything is off by default.

    It happens on the device, in the order of the fields. Crop, rotation, shift, shear and zoom are one affine
    warp, so an image is resampled once however many of them are asked for.
    """

    flip: bool = False
    """Mirror each training image left to right with probability 1/2."""
    pad_crop: Annotated[int, Range(least=0)] = 0
    """Pad training images by this many black pixels and cut the size out at a random place (CIFAR: 4)."""
    random_resized_crop: Annotated[
        tuple[float, float] | None, Range(above=0, most=1), NotWith("pad_crop")
    ] = None
    """Cut out a part of each training image, its share of the area drawn from this range and its aspect from
    3/4 to 4/3, and stretch it to the whole size (ImageNet: 0.08 1; torchvision's RandomResizedCrop)."""
    crop_size: Annotated[int | None, Range(least=1), GoesWith("random_resized_crop")] = None
    """Side of what random_resized_crop makes, in pixels, if training is to see another size than validation
    (Touvron et al. 2019; torchvision: 176 of 224)."""
    rotate: Annotated[float, Range(least=0, most=180)] = 0.0
    """Turn training images by up to this many degrees either way (Keras' rotation_range)."""
    shift: Annotated[float, Range(least=0, most=1)] = 0.0
    """Shift training images by up to this fraction of their size, along and across (Keras' width_shift_range
    and height_shift_range, torchvision's translate)."""
    shear: Annotated[float, Range(least=0, most=80)] = 0.0
    """Shear training images along their rows by up to this many degrees either way (shear_range)."""
    zoom: Annotated[float, Range(least=0, most=0.95)] = 0.0
    """Scale training images by a factor of up to 1 -+ this, along and across independently (zoom_range)."""
    fill: Fill = "nearest"
    """What appears where a warped image ends: its border pixel, its mirror image, or black (fill_mode)."""
    auto: Literal["none", "trivial", "rand"] = "none"
    """TrivialAugmentWide (Müller & Hutter 2021) or RandAugment (Cubuk et al. 2020; 2 operations of magnitude
    9), with torchvision's operations and magnitudes."""
    brightness: Annotated[float, Range(least=0, most=10)] = 0.0
    """Multiply brightness by a factor of up to 1 -+ this (as the next three: torchvision's ColorJitter)."""
    contrast: Annotated[float, Range(least=0, most=10)] = 0.0
    """Multiply contrast by a factor of up to 1 -+ this."""
    saturation: Annotated[float, Range(least=0, most=10)] = 0.0
    """Multiply saturation by a factor of up to 1 -+ this."""
    hue: Annotated[float, Range(least=0, most=0.5)] = 0.0
    """Turn the hue by up to this fraction of the colour circle either way, at most 0.5."""
    erase: Annotated[float, Range(least=0, most=1)] = 0.0
    """Probability of erasing a rectangle of a training image (Zhong et al. 2017): 2 to 33 % of its area."""
    mixup: Annotated[float, Range(least=0, most=100)] = 0.0
    """Blend pairs of training images and their labels by a weight from Beta(this, this); 0 is off (Zhang et
    al. 2018)."""
    cutmix: Annotated[float, Range(least=0, most=100)] = 0.0
    """Paste a rectangle of another training image, and its share of the label, with an area from Beta(this,
    this); 0 is off (Yun et al. 2019). With mixup, each image gets one of the two."""

    def check(self) -> None:
        super().check()
        if self.random_resized_crop and self.random_resized_crop[0] > self.random_resized_crop[1]:
            raise BadInput(f"{shown(self, 'random_resized_crop')}: expected the smaller share first")
        reaching_outside = self.rotate or self.shift or self.shear or self.zoom or self.auto != "none"
        if self.fill != "nearest" and not reaching_outside:
            raise BadInput(
                f"{shown(self, 'fill')} without rotate, shift, shear, zoom or auto: there is nothing to "
                "fill; leave it out"
            )
