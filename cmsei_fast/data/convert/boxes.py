"""A check that all converters make: boxes lie within their image."""

from __future__ import annotations

import numpy as np


def check_inside(where: str, boxes: np.ndarray, width: float, height: float) -> None:
    """Boxes (R, 4) are xyxy pixels of an image of that size, up to two pixels.

    Raises:
        ValueError: the size is not positive; a box is not finite, inside out, or outside, as happens when width and
            height are swapped.
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
            f"got {boxes[i].tolist()}"
        )
