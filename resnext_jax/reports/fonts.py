"""Text in pictures in any script, as far as the machine has fonts for it."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import matplotlib
from matplotlib import font_manager

BASE = "DejaVu Sans"  # comes with matplotlib


@contextmanager
def fonts_for(texts: Iterable[str]) -> Iterator[None]:
    """Draw with fonts that have these texts' characters; a character that no font has shows as a box."""
    missing = {ord(char) for text in texts for char in text if not char.isspace()}
    families = [BASE]
    for family, path in [(BASE, font_manager.findfont(BASE)), *_installed()]:
        if not missing:
            break
        covered = missing & _characters(path)
        if covered:
            missing -= covered
            families.append(family)
    with matplotlib.rc_context({"font.family": list(dict.fromkeys(families))}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        yield


def _installed() -> Iterator[tuple[str, str]]:
    """Family and file of each installed font, upright ones first."""
    fonts = sorted(font_manager.fontManager.ttflist, key=lambda font: (font.style != "normal", font.name))
    # matplotlib's last resort has a box for every character there is.
    return ((font.name, font.fname) for font in fonts if not font.name.startswith("Last Resort"))


def _characters(path: str) -> set[int]:
    try:
        return set(font_manager.get_font(path).get_charmap())
    except (OSError, RuntimeError):  # a font file that FreeType cannot read is as good as none
        return set()
