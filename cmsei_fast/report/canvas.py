"""The layout of a picture of regions: the canvas, and labels that do not cover each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import cos, pi, sin

import numpy as np

from .explanation import Explanation

Point = tuple[float, float]
_GRID = 12  # places tried along each side of a box
_LOW = 2.5  # times the height of a label that would cover most of the box


def layout(explanation: Explanation) -> tuple[np.ndarray, Point]:
    """Boxes (R, 4) and the size of the canvas: the explanation's own, or a grid of tiles."""
    if explanation.boxes is not None and explanation.size is not None:
        return explanation.boxes, explanation.size
    n = len(explanation.regions)
    columns = int(np.ceil(np.sqrt(n)))
    row, column = np.divmod(np.arange(n), columns)
    tiles = np.stack([column + 0.05, row + 0.05, column + 0.95, row + 0.95], axis=1) * 100
    return tiles, (100.0 * columns, 100.0 * float(row[-1] + 1))


def strengths(shares: np.ndarray) -> np.ndarray:
    """How strongly shares (n,) are drawn, in [0, 1]: each by its part of the largest, all faint where they are even."""
    shares = shares / max(float(shares.max()), 1e-12)
    if len(shares) == 1:
        return shares
    peaked = (1 - float(shares.mean())) / (1 - 1 / len(shares))
    return shares * (0.2 + 0.8 * peaked)


def keep_clear(labels: Iterable[tuple[Point, Iterable[Point]]], canvas: Point) -> list[Point | None]:
    """Greedy placement: each label takes the first of its places that meets none of the labels before it.

    Args:
        labels: width and height of each, and the top left corners that it may have, the best first.
        canvas: width and height; a label is moved inside.

    Returns:
        The top left corner of each, None where every place is taken.
    """
    taken: list[tuple[float, float, float, float]] = []
    corners: list[Point | None] = []
    for (wide, high), places in labels:
        found = None
        for x, y in places:
            x, y = _inside((float(x), float(y)), (wide, high), canvas)
            if all(x >= c or x + wide <= a or y >= d or y + high <= b for a, b, c, d in taken):
                found = (x, y)
                taken.append((x, y, x + wide, y + high))
                break
        corners.append(found)
    return corners


def about_box(box: Sequence[float], size: Point) -> Iterator[Point]:
    """Places of a label for a box: its corners, above and below it (first, where it is low), then anywhere over it."""
    x0, y0, x1, y1 = box
    wide, high = size
    inside = ((x0, y0), (x0, y1 - high), (x1 - wide, y0), (x1 - wide, y1 - high))
    outside = ((x0, y0 - high), (x0, y1))
    yield from (*outside, *inside) if y1 - y0 < _LOW * high else (*inside, *outside)
    for y in np.linspace(y0, max(y0, y1 - high), _GRID):
        for x in np.linspace(x0, max(x0, x1 - wide), _GRID):
            yield float(x), float(y)


def about_point(point: Sequence[float], size: Point) -> Iterator[Point]:
    """Places of a label on a point: centred, then on wider and wider rings around it."""
    x, y = point[0] - size[0] / 2, point[1] - size[1] / 2
    yield x, y
    for ring in range(1, 9):
        for k in range(12):
            angle = 2 * pi * k / 12
            yield x + 0.6 * ring * size[1] * 1.8 * cos(angle), y + 0.6 * ring * size[1] * sin(angle)


def _inside(corner: Point, size: Point, canvas: Point) -> Point:
    """The top left corner of a label, moved so that the label lies on the canvas."""
    x, y = (max(0.0, min(at, end - extent)) for at, end, extent in zip(corner, canvas, size, strict=True))
    return x, y


def off_lines(
    places: Iterable[Point], size: Point, lines: Sequence[tuple[Point, Point]], room: float, canvas: Point
) -> Iterator[Point]:
    """Places of a label, those that keep off the lines first, each in its order.

    Args:
        places: top left corners.
        size: width and height of the label.
        lines: start and end of each.
        room: between label and line.
        canvas: width and height; a place is moved inside.
    """
    meeting = []
    for x, y in places:
        x, y = _inside((x, y), size, canvas)
        box = (x - room, y - room, x + size[0] + room, y + size[1] + room)
        if any(_meets(box, start, end) for start, end in lines):
            meeting.append((x, y))
        else:
            yield x, y
    yield from meeting


def _meets(box: tuple[float, float, float, float], start: Point, end: Point) -> bool:
    """Whether a line has a part within a box, between the bounds of both axes (Liang–Barsky)."""
    first, last = 0.0, 1.0
    for axis in (0, 1):
        along = end[axis] - start[axis]
        low, high = box[axis] - start[axis], box[axis + 2] - start[axis]
        if along == 0:
            if low > 0 or high < 0:
                return False
            continue
        near, far = sorted((low / along, high / along))
        first, last = max(first, near), min(last, far)
    return first <= last
