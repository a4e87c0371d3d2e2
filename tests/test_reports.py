"""Pictures: text in any script, curves of unfinished and failed runs."""

import math
import warnings

import numpy as np
import pytest
from matplotlib import font_manager
from PIL import Image

from resnext_jax.reports.curves import draw_curves
from resnext_jax.reports.fonts import BASE, fonts_for
from resnext_jax.reports.grid import draw_images


def test_names_in_any_script_never_break_a_picture(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    captions = ["猴痘 \U0001f9a0", "قرد $x_1^", "обезьяна\n$\\frac"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_images(images, captions, ["black"] * 3, tmp_path / "grid.png")
    assert Image.open(tmp_path / "grid.png").size[0] > 100


def test_a_font_that_has_the_characters_is_found():
    base = set(font_manager.get_font(font_manager.findfont(BASE)).get_charmap())
    others = {
        char: font.name
        for font in font_manager.fontManager.ttflist
        if not font.name.startswith("Last Resort")
        for char in font_manager.get_font(font.fname).get_charmap()
        if char not in base and char > 0x2000
    }
    if not others:
        pytest.skip("every installed font has the base font's characters only")
    char = min(others)
    import matplotlib

    with fonts_for([chr(char)]):
        families = matplotlib.rcParams["font.family"]
        assert families[0] == BASE
        found = font_manager.get_font(font_manager.findfont(families[1]))
        assert char in found.get_charmap()
    with fonts_for(["plain"]):
        assert matplotlib.rcParams["font.family"] == [BASE]


def test_curves_of_one_epoch_and_of_a_failed_validation(tmp_path):
    row = {"epoch": 1, "train_loss": 0.7, "train_top1": 0.5, "val_loss": 0.8, "val_top1": 0.6}
    draw_curves([row], tmp_path / "curves.png")
    first = (tmp_path / "curves.png").read_bytes()
    failed = row | {"epoch": 2, "val_loss": math.nan, "val_top1": math.nan}
    draw_curves([row, failed], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes() != first
    draw_curves([failed], tmp_path / "curves.png")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
