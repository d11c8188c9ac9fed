"""Boxes that are x, y, width, height where corners are meant."""

from __future__ import annotations

from typing import Any

import numpy as np

_SLACK = 2.0  # pixels beyond an image's side, as converters allow


def instead_of_corners(boxes: Any, sizes: Any = None) -> str:
    """What boxes that are no corners look like, to add to an error; "" where they do not look like x, y, width, height.

    Args:
        boxes: (R, 4) numbers of which some are inside out as x1, y1, x2, y2.
        sizes: width and height of their image in pixels, (2,) or (R, 2); None: not known.
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
