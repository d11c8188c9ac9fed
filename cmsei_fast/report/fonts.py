"""Fonts for text in pictures: matplotlib's own has no Chinese, Japanese, Korean or Hindi characters."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def families(text: str) -> list[str]:
    """matplotlib's font families, then installed ones for the characters that those before them lack.

    Characters that no installed font has stay out; matplotlib draws boxes for them.
    """
    import matplotlib
    from matplotlib import font_manager

    found = list(matplotlib.rcParams["font.family"])
    usual = font_manager.findfont(font_manager.FontProperties(family=found))
    lacking = {ord(character) for character in text if not character.isspace()} - _characters(usual)
    for name, path in sorted(_regular().items()) if lacking else ():
        has = lacking & _characters(path)
        if has:
            found.append(name)
            lacking -= has
    return found


def _regular() -> dict[str, str]:
    """Files of the installed families, upright and of a regular weight: one without would be told in its place."""
    from matplotlib import font_manager

    regular = {400, *(name for name, weight in font_manager.weight_dict.items() if weight == 400)}
    return {
        entry.name: entry.fname
        for entry in font_manager.fontManager.ttflist
        if entry.style == "normal"
        and entry.weight in regular
        and not entry.name.startswith("Last Resort")  # a font of boxes
    }


def _characters(path: str) -> set[int]:
    """Code points that a font has an outline for; none of a file that is no such font."""
    from matplotlib import font_manager

    try:
        font = font_manager.get_font(path)
    except (OSError, RuntimeError):  # a bitmap font, or one that is damaged
        return set()
    return set(font.get_charmap()) if font.scalable else set()


@contextmanager
def boxes_for_missing_characters() -> Iterator[None]:
    """A box in the picture says that a font lacks a character; a warning a character on the terminal says no more."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from (current )?font", UserWarning)
        yield
