"""Images on a page: a thumbnail where there are pixels, else boxes with names, else the image's name alone."""

from __future__ import annotations

import io
from html import escape
from pathlib import Path

import numpy as np

from ..data import Split
from .html import Html, html, picture, svg

SUFFIXES = ("", ".jpg", ".jpeg", ".png", ".webp")
WIDTH, HEIGHT = 200, 160
_NAMED = 8  # boxes with their name in the drawing; all names are in its description
_TEXT = 10  # height of a name, CSS pixels


class Drawings:
    """Draws the images of a split.

    Args:
        split: gives names, and boxes where it has them; None draws numbers.
        folder: of the image files; None draws boxes.

    Raises:
        ImportError: there is a folder, and Pillow is not installed.
        OSError: there is no such folder, or it lacks an image of the split.
        ValueError: a folder without a split.
    """

    def __init__(self, split: Split | None, folder: str | None = None) -> None:
        self.split, self.files = split, None
        if folder is not None:
            if split is None:
                raise ValueError("--images: expected --split beside it (it names the images), got none")
            self.files = _find(split.ids, Path(folder))

    def name(self, image: int) -> str:
        """The image's name, or its number."""
        return f"image {image}" if self.split is None else self.split.ids[image]

    def draw(self, image: int) -> Html:
        """The image, at most ``WIDTH`` × ``HEIGHT`` CSS pixels."""
        if self.files is not None:
            return _thumbnail(self.files[image], self.name(image))
        if self.split is not None and self.split.boxes is not None:
            return _boxes(self.split, image)
        return html("")


def _find(names: tuple[str, ...], folder: Path) -> list[Path]:
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        raise ImportError("--images: expected the package Pillow (pip install 'cmsei-fast[plot]'), got none") from None
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


def _boxes(split: Split, image: int) -> Html:
    rows = slice(int(split.offsets[image]), int(split.offsets[image + 1]))
    assert split.boxes is not None
    boxes = split.boxes[rows]
    size = boxes[:, 2:].max(0) if split.sizes is None else split.sizes[image]
    scale = min(WIDTH / float(size[0]), HEIGHT / float(size[1])) if (size > 0).all() else 1.0
    wide, high = (float(x) * scale for x in size)
    names = [""] * len(boxes)
    if split.labels is not None:
        names = ["unknown" if i < 0 else split.object_names[i] for i in split.labels[rows].tolist()]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    parts = []
    for x1, y1, x2, y2 in (boxes * scale).tolist():
        parts.append(
            f'<rect x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}" fill="#35618f" '
            f'fill-opacity=".03" stroke="#35618f" stroke-opacity=".7"/>'
        )
    # The first box of a name in the detector's order of confidence, or in that of its size, as long as there is room.
    order = np.argsort(-(area if split.label_scores is None else split.label_scores[rows]), kind="stable")
    shown: list[tuple[float, float, float]] = []
    told: set[str] = set()
    for i in order.tolist():
        name = names[i]
        if not name or name in told or len(told) == _NAMED:
            continue
        length = 0.6 * _TEXT * len(name)
        x = min(max(float(boxes[i, 0]) * scale + 2, 1.0), max(1.0, wide - length))
        y = min(float(boxes[i, 1]) * scale + _TEXT, high - 2)
        if any(x < a + n and a < x + length and abs(y - b) < _TEXT for a, b, n in shown):
            continue
        shown.append((x, y, length))
        told.add(name)
        parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{_TEXT}" stroke="#f6f5f1" stroke-width="2.5" '
            f'paint-order="stroke">{escape(name)}</text>'
        )
    label = f"{split.ids[image]}: {', '.join(dict.fromkeys(x for x in names if x)) or f'{len(boxes)} regions'}"
    return svg(wide, high, label, "".join(parts))
