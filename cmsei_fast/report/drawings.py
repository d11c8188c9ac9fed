"""Images on a page: a thumbnail if there are pixels, else boxes with names, else only the image's name."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from ..data import Split, tokenize
from ..data.lexical import singular
from .canvas import about_box, keep_clear
from .extras import require
from .html import Html, html, name_size, named, picture, svg

SUFFIXES = ("", ".jpg", ".jpeg", ".png", ".webp")
WIDTH, HEIGHT = 200, 160
_NAMED = 8  # boxes with their name in the drawing; all names are in its description
_TEXT = 11  # height of a name, CSS pixels


class Drawings:
    """Draws the images of a split.

    Args:
        split: gives names, and boxes where it has them; None draws numbers.
        folder: of the image files; None draws boxes.

    Raises:
        ModuleNotFoundError: there is a folder, and Pillow is not installed.
        OSError: there is no such folder, or it lacks an image of the split.
        ValueError: a folder without a split.
    """

    def __init__(self, split: Split | None, folder: str | None = None) -> None:
        self.split, self.files = split, None
        if folder is not None:
            if split is None:
                raise ValueError("--images: expected --split with it (the split names the images), got none")
            self.files = _find(split.ids, Path(folder))

    def name(self, image: int) -> str:
        """The image's name, or its number."""
        return f"image {image}" if self.split is None else self.split.ids[image]

    def draw(self, image: int, sentence: str = "") -> Html:
        """The image, at most ``WIDTH`` × ``HEIGHT`` CSS pixels; boxes that the sentence names stand out."""
        if self.files is not None:
            return _thumbnail(self.files[image], self.name(image))
        if self.split is not None and self.split.boxes is not None:
            return _boxes(self.split, image, {singular(word) for word in tokenize(sentence)})
        return html("")


def _find(names: tuple[str, ...], folder: Path) -> list[Path]:
    require("--images", "Pillow")
    if not folder.is_dir():
        raise FileNotFoundError(f"--images: expected a directory of images, got {folder}")
    there = {path.name for path in folder.iterdir()}
    found = []
    for name in names:
        file = next((name + suffix for suffix in SUFFIXES if name + suffix in there), None)
        if file is None:
            raise FileNotFoundError(f"--images: expected {name} (as the split names it) in {folder}, got no such file")
        found.append(folder / file)
    return found


def _thumbnail(path: Path, name: str) -> Html:
    from PIL import Image

    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((2 * WIDTH, 2 * HEIGHT))  # twice the size on the page, for screens of a high resolution
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=80)
    scale = min(WIDTH / small.width, HEIGHT / small.height)
    return picture(buffer.getvalue(), "image/jpeg", name, width=round(small.width * scale))


def _is_told(name: str, words: set[str]) -> bool:
    """Whether a sentence's words have all of the name, or of one of its aliases (Visual Genome's ``lady,woman``)."""
    return any(words.issuperset(map(singular, tokenize(alias) or [alias])) for alias in name.split(","))


def _boxes(split: Split, image: int, words: set[str]) -> Html:
    rows = slice(int(split.offsets[image]), int(split.offsets[image + 1]))
    assert split.boxes is not None
    boxes = split.boxes[rows]
    size = boxes[:, 2:].max(0) if split.sizes is None else split.sizes[image]
    scale = min(WIDTH / float(size[0]), HEIGHT / float(size[1])) if (size > 0).all() else 1.0
    wide, high = (float(x) * scale for x in size)
    names = [""] * len(boxes)
    if split.labels is not None:
        names = ["unknown" if i < 0 else split.object_names[i] for i in split.labels[rows].tolist()]
    told = {name for name in names if _is_told(name, words)}
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    parts = []
    for name, (x1, y1, x2, y2) in zip(names, (boxes * scale).tolist(), strict=True):
        parts.append(
            f'<rect x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}" fill="var(--accent)" '
            f'fill-opacity=".03" stroke="var(--accent)" '
            + ('stroke-width="2"/>' if name in told else 'stroke-opacity=".7"/>')
        )
    # The first box of a name in the detector's order of confidence, or in that of its size, as long as there is room;
    # names of the sentence before the others.
    order = np.argsort(-(area if split.label_scores is None else split.label_scores[rows]), kind="stable").tolist()
    order.sort(key=lambda i: names[i] not in told)
    first: dict[str, int] = {}
    for i in order:
        if names[i] and len(first) < _NAMED:
            first.setdefault(names[i], i)
    sizes = [name_size(name, _TEXT, bold=name in told) for name in first]
    places = [about_box((boxes[i] * scale).tolist(), size) for i, size in zip(first.values(), sizes, strict=True)]
    for name, corner in zip(first, keep_clear(zip(sizes, places, strict=True), (wide, high)), strict=True):
        if corner is not None:
            parts.append(named(name, *corner, _TEXT, bold=name in told))
    label = f"{split.ids[image]}: {', '.join(dict.fromkeys(x for x in names if x)) or f'{len(boxes)} regions'}"
    return svg(wide, high, label, "".join(parts))
