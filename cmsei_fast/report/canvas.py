"""The layout of a picture of regions: the canvas, and labels that do not cover each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import cos, pi, sin

import numpy as np

from .explanation import Explanation

Point = tuple[float, float]
_GRID_STEPS = 12  # places tried along each side of a box
_LOW_BOX = 2.5  # a box lower than this many heights of its label has the label above or below it if possible


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
    """How strongly to draw shares (n,), in [0, 1]: in proportion to the largest, fainter if they are nearly equal."""
    shares = shares / max(float(shares.max()), 1e-12)
    if len(shares) == 1:
        return shares
    unevenness = (1 - float(shares.mean())) / (1 - 1 / len(shares))
    return shares * (0.2 + 0.8 * unevenness)


def place_labels(labels: Iterable[tuple[Point, Iterable[Point]]], canvas: Point) -> list[Point | None]:
    """Places labels greedily: each takes the first of its places that does not overlap the labels placed before it.

    Args:
        labels: width and height of each, and the top left corners that it may have, the best first.
        canvas: width and height; a label is moved inside.

    Returns:
        The top left corner of each, None where every place is taken.
    """
    occupied: list[tuple[float, float, float, float]] = []
    corners: list[Point | None] = []
    for (width, height), places in labels:
        corner = None
        for x, y in places:
            x, y = _move_inside((float(x), float(y)), (width, height), canvas)
            if all(x >= c or x + width <= a or y >= d or y + height <= b for a, b, c, d in occupied):
                corner = (x, y)
                occupied.append((x, y, x + width, y + height))
                break
        corners.append(corner)
    return corners


def places_for_box(box: Sequence[float], size: Point) -> Iterator[Point]:
    """Places of a box's label: in its corners, then above and below it (these first if it is low), then all over it."""
    x0, y0, x1, y1 = box
    width, height = size
    inside = ((x0, y0), (x0, y1 - height), (x1 - width, y0), (x1 - width, y1 - height))
    outside = ((x0, y0 - height), (x0, y1))
    yield from (*outside, *inside) if y1 - y0 < _LOW_BOX * height else (*inside, *outside)
    for y in np.linspace(y0, max(y0, y1 - height), _GRID_STEPS):
        for x in np.linspace(x0, max(x0, x1 - width), _GRID_STEPS):
            yield float(x), float(y)


def places_for_point(point: Sequence[float], size: Point) -> Iterator[Point]:
    """Places of a label on a point: centred, then on wider and wider rings around it."""
    x, y = point[0] - size[0] / 2, point[1] - size[1] / 2
    yield x, y
    for ring in range(1, 9):
        for k in range(12):
            angle = 2 * pi * k / 12
            yield x + 0.6 * ring * size[1] * 1.8 * cos(angle), y + 0.6 * ring * size[1] * sin(angle)


def _move_inside(corner: Point, size: Point, canvas: Point) -> Point:
    """The top left corner of a label, moved so that the label lies on the canvas."""
    x, y = (max(0.0, min(start, end - extent)) for start, end, extent in zip(corner, canvas, size, strict=True))
    return x, y


def places_off_lines(
    places: Iterable[Point], size: Point, lines: Sequence[tuple[Point, Point]], room: float, canvas: Point
) -> Iterator[Point]:
    """Places of a label: first those that do not meet a line, then the others, both in the given order.

    Args:
        places: top left corners.
        size: width and height of the label.
        lines: start and end of each.
        room: distance to keep between label and line.
        canvas: width and height; a place is moved inside.
    """
    on_lines = []
    for x, y in places:
        x, y = _move_inside((x, y), size, canvas)
        box = (x - room, y - room, x + size[0] + room, y + size[1] + room)
        if any(_line_meets_box(box, start, end) for start, end in lines):
            on_lines.append((x, y))
        else:
            yield x, y
    yield from on_lines


def _line_meets_box(box: tuple[float, float, float, float], start: Point, end: Point) -> bool:
    """Whether a line has a part within a box, between the bounds of both axes (Liang–Barsky)."""
    enter, leave = 0.0, 1.0
    for axis in (0, 1):
        extent = end[axis] - start[axis]
        low, high = box[axis] - start[axis], box[axis + 2] - start[axis]
        if extent == 0:
            if low > 0 or high < 0:
                return False
            continue
        near, far = sorted((low / extent, high / extent))
        enter, leave = max(enter, near), min(leave, far)
    return enter <= leave
