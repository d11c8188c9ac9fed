"""A check that all converters make: boxes lie within their image."""

from __future__ import annotations

import numpy as np

from ..corners import instead_of_corners

_TINY = 2  # pixels: in such a small image, all boxes may lie in the first pixel


def check_inside(where: str, boxes: np.ndarray, width: float, height: float) -> None:
    """Checks that boxes (R, 4) are xyxy pixels within an image of that size, give or take two pixels.

    Raises:
        ValueError: the size is not positive; a box is not finite, inside out, or outside, as happens when width and
            height are swapped; several boxes all lie in the first pixel, as parts of the sides do.
    """
    if not (np.isfinite(width) and np.isfinite(height) and width > 0 and height > 0):
        raise ValueError(f"{where}: expected a width and height > 0, got {width:g} × {height:g}")
    low, high = boxes[:, :2], boxes[:, 2:]
    good = np.isfinite(boxes).all(1) & (low <= high).all(1) & (low >= -2).all(1)
    good &= (high <= np.array([width, height]) + 2).all(1)
    if not good.all():
        i = int(np.argmin(good))
        raise ValueError(
            f"{where}: box {i}: expected x1 <= x2, y1 <= y2 within an image of {width:g} × {height:g} pixels, "
            f"got {boxes[i].tolist()}{instead_of_corners(boxes, (width, height))}"
        )
    if len(boxes) > 1 and min(width, height) > _TINY and 0 < boxes.max() <= 1:
        raise ValueError(
            f"{where}: expected boxes in pixels of {width:g} × {height:g}, got all boxes in its first pixel; "
            "where they are parts of its sides, multiply them by width, height, width, height"
        )
