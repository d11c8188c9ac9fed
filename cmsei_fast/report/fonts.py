"""Fonts for text in pictures: matplotlib's own has no Chinese, Japanese, Korean or Hindi characters."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def families(text: str) -> list[str]:
    """matplotlib's font families, followed by installed ones that have the characters missing in those before them.

    For characters that no installed font has, matplotlib draws boxes.
    """
    import matplotlib
    from matplotlib import font_manager

    names = list(matplotlib.rcParams["font.family"])
    default_font = font_manager.findfont(font_manager.FontProperties(family=names))
    missing = {ord(character) for character in text if not character.isspace()} - _characters(default_font)
    for name, path in sorted(_regular_fonts().items()) if missing else ():
        covered = missing & _characters(path)
        if covered:
            names.append(name)
            missing -= covered
    return names


def _regular_fonts() -> dict[str, str]:
    """Files of the installed families' upright fonts of regular weight; matplotlib would log the use of another."""
    from matplotlib import font_manager

    regular_weights = {400, *(name for name, weight in font_manager.weight_dict.items() if weight == 400)}
    return {
        entry.name: entry.fname
        for entry in font_manager.fontManager.ttflist
        if entry.style == "normal"
        and entry.weight in regular_weights
        and not entry.name.startswith("Last Resort")  # a font of boxes
    }


def _characters(path: str) -> set[int]:
    """Code points that a font has an outline for; empty for a file that is not an outline font."""
    from matplotlib import font_manager

    try:
        font = font_manager.get_font(path)
    except (OSError, RuntimeError):  # a bitmap font, or one that is damaged
        return set()
    return set(font.get_charmap()) if font.scalable else set()


@contextmanager
def boxes_for_missing_characters() -> Iterator[None]:
    """Silences matplotlib's warning for each character without a font: the box in the picture shows it already."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from (current )?font", UserWarning)
        yield
