"""Detects boxes given as x, y, width, height where corners are expected."""

from __future__ import annotations

from typing import Any

import numpy as np

_SLACK = 2.0  # pixels beyond an image's side, as converters allow


def instead_of_corners(boxes: Any, sizes: Any = None) -> str:
    """A hint to add to an error if boxes look like x, y, width, height; "" if they do not.

    Args:
        boxes: (R, 4) numbers, some of which are inside out if read as x1, y1, x2, y2.
        sizes: width and height of their image in pixels, (2,) or (R, 2); None if unknown.
    """
    try:
        boxes = np.asarray(boxes, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return ""
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not (np.isfinite(boxes).all() and (boxes[:, 2:] >= 0).all()):
        return ""
    turned = (boxes[:, :2] > boxes[:, 2:]).any()
    limit = np.inf if sizes is None else np.asarray(sizes) + _SLACK
    if not turned or (boxes[:, :2] < -_SLACK).any() or (boxes[:, :2] + boxes[:, 2:] > limit).any():
        return ""
    return "; they look like x, y, width, height: x + width and y + height are x2 and y2"
