"""Images on a page: a thumbnail if there are pixels, else boxes with names, else only the image's name."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from ..data import Split, tokenize
from ..data.lexical import singular
from .canvas import place_labels, places_for_box
from .extras import require
from .html import Html, draw_name, html, name_size, picture, svg

SUFFIXES = ("", ".jpg", ".jpeg", ".png", ".webp")
WIDTH, HEIGHT = 200, 160
_MAX_NAMES = 8  # names shown in a drawing; its description has all
_NAME_HEIGHT = 11  # height of a name, CSS pixels


class Drawings:
    """Draws the images of a split.

    Args:
        split: gives the images' names, and boxes if it has them; without it, images are only numbered.
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
            self.files = _find_files(split.ids, Path(folder))

    def name(self, image: int) -> str:
        """The image's name, or its number."""
        return f"image {image}" if self.split is None else self.split.ids[image]

    def draw(self, image: int, sentence: str = "") -> Html:
        """The image, at most ``WIDTH`` × ``HEIGHT`` CSS pixels; boxes that the sentence names stand out."""
        if self.files is not None:
            return _thumbnail(self.files[image], self.name(image))
        if self.split is not None and self.split.boxes is not None:
            return _draw_boxes(self.split, image, {singular(word) for word in tokenize(sentence)})
        return html("")


def _find_files(names: tuple[str, ...], folder: Path) -> list[Path]:
    require("--images", "Pillow")
    if not folder.is_dir():
        raise FileNotFoundError(f"--images: expected a directory of images, got {folder}")
    file_names = {path.name for path in folder.iterdir()}
    files = []
    for name in names:
        file = next((name + suffix for suffix in SUFFIXES if name + suffix in file_names), None)
        if file is None:
            raise FileNotFoundError(f"--images: expected {name} (as the split names it) in {folder}, got no such file")
        files.append(folder / file)
    return files


def _thumbnail(path: Path, name: str) -> Html:
    from PIL import Image

    with Image.open(path) as image:
        thumbnail = image.convert("RGB")
    thumbnail.thumbnail((2 * WIDTH, 2 * HEIGHT))  # twice the size on the page, for screens of a high resolution
    buffer = io.BytesIO()
    thumbnail.save(buffer, format="JPEG", quality=80)
    scale = min(WIDTH / thumbnail.width, HEIGHT / thumbnail.height)
    return picture(buffer.getvalue(), "image/jpeg", name, width=round(thumbnail.width * scale))


def _is_mentioned(name: str, words: set[str]) -> bool:
    """Whether a sentence has all words of a name, or of one of its aliases (Visual Genome's ``lady,woman``)."""
    return any(words.issuperset(map(singular, tokenize(alias) or [alias])) for alias in name.split(","))


def _draw_boxes(split: Split, image: int, words: set[str]) -> Html:
    rows = slice(int(split.offsets[image]), int(split.offsets[image + 1]))
    assert split.boxes is not None
    boxes = split.boxes[rows]
    size = boxes[:, 2:].max(0) if split.sizes is None else split.sizes[image]
    scale = min(WIDTH / float(size[0]), HEIGHT / float(size[1])) if (size > 0).all() else 1.0
    width, height = (float(x) * scale for x in size)
    names = [""] * len(boxes)
    if split.labels is not None:
        names = ["unknown" if i < 0 else split.object_names[i] for i in split.labels[rows].tolist()]
    mentioned = {name for name in names if _is_mentioned(name, words)}
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    parts = []
    for name, (x1, y1, x2, y2) in zip(names, (boxes * scale).tolist(), strict=True):
        parts.append(
            f'<rect x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}" fill="var(--accent)" '
            f'fill-opacity=".03" stroke="var(--accent)" '
            + ('stroke-width="2"/>' if name in mentioned else 'stroke-opacity=".7"/>')
        )
    # Each name is shown at its most confident box, or its largest if there are no confidences; names that the sentence
    # mentions come first.
    order = np.argsort(-(area if split.label_scores is None else split.label_scores[rows]), kind="stable").tolist()
    order.sort(key=lambda i: names[i] not in mentioned)
    box_by_name: dict[str, int] = {}
    for i in order:
        if names[i] and len(box_by_name) < _MAX_NAMES:
            box_by_name.setdefault(names[i], i)
    sizes = [name_size(name, _NAME_HEIGHT, bold=name in mentioned) for name in box_by_name]
    places = [
        places_for_box((boxes[i] * scale).tolist(), size) for i, size in zip(box_by_name.values(), sizes, strict=True)
    ]
    for name, corner in zip(box_by_name, place_labels(zip(sizes, places, strict=True), (width, height)), strict=True):
        if corner is not None:
            parts.append(draw_name(name, *corner, _NAME_HEIGHT, bold=name in mentioned))
    label = f"{split.ids[image]}: {', '.join(dict.fromkeys(x for x in names if x)) or f'{len(boxes)} regions'}"
    return svg(width, height, label, "".join(parts))
