"""Spatial relations: the classes of Yao et al. 2018 ("Exploring visual relationship for image captioning"), from boxes.

The angle is that of ``atan2``. Widely used code takes an arc sine or cosine instead, which is wrong in two quadrants.
"""

from __future__ import annotations

import torch
from torch import Tensor

# What each label (i, j) says, by its number: what i is to j, or where j lies as seen from i; y grows downwards.
SPATIAL_NAMES = (
    "none",
    "inside",
    "covers",
    "overlaps",
    "right, slightly below",
    "below, slightly right",
    "below, slightly left",
    "left, slightly below",
    "left, slightly above",
    "above, slightly left",
    "above, slightly right",
    "right, slightly above",
    "self",
)
SPATIAL_LABELS = len(SPATIAL_NAMES)
INSIDE, COVERS, OVERLAPS, FIRST_DIRECTION, SELF = 1, 2, 3, 4, 12


def spatial_labels(boxes: Tensor, sizes: Tensor, mask: Tensor) -> Tensor:
    """Label of each ordered pair (i, j) of an image's regions.

    1: i lies inside j; 2: i covers j; 3: IoU of at least 0.5; else, if the centres are nearer than half the image's
    diagonal, 4 + floor(angle / 45°), the angle from i's centre to j's in [0°, 360°), x to the right and y down; else
    0, no edge. 12: i is j. Of two equal boxes either lies inside the other.

    Args:
        boxes: (B, R, 4) xyxy pixels; anything in the padding.
        sizes: (B, 2) width and height in pixels.
        mask: (B, R) bool, True for regions, False for padding.

    Returns:
        (B, R, R) uint8 below ``SPATIAL_LABELS``; 0 from or to padding.
    """
    boxes = boxes.float().masked_fill(~mask[..., None], 0)
    x1, y1, x2, y2 = boxes.unbind(-1)  # (B, R)
    i = tuple(c[:, :, None] for c in (x1, y1, x2, y2))  # (B, R, 1)
    j = tuple(c[:, None, :] for c in (x1, y1, x2, y2))  # (B, 1, R)
    inside = (i[0] >= j[0]) & (i[1] >= j[1]) & (i[2] <= j[2]) & (i[3] <= j[3])  # (B, R, R)
    width = (torch.minimum(i[2], j[2]) - torch.maximum(i[0], j[0])).clamp(min=0)
    height = (torch.minimum(i[3], j[3]) - torch.maximum(i[1], j[1])).clamp(min=0)
    area = (x2 - x1) * (y2 - y1)
    shared = width * height
    # shared / union >= 1/2, without a division by the area of two empty boxes
    overlaps = (3 * shared >= area[:, :, None] + area[:, None, :]) & (shared > 0)
    cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
    dx, dy = cx[:, None, :] - cx[:, :, None], cy[:, None, :] - cy[:, :, None]  # from i to j
    # Squares: exact for whole pixels, where two roots of one number may round apart.
    near = 4 * (dx.square() + dy.square()) < sizes.float().square().sum(-1)[:, None, None]
    labels = torch.where(near, FIRST_DIRECTION + _octant(dx, dy), 0)
    labels = labels.masked_fill(overlaps, OVERLAPS).masked_fill(inside.mT, COVERS).masked_fill(inside, INSIDE)
    labels.diagonal(dim1=1, dim2=2).fill_(SELF)
    return labels.masked_fill(~(mask[:, :, None] & mask[:, None, :]), 0).to(torch.uint8)


def _octant(dx: Tensor, dy: Tensor) -> Tensor:
    """floor(angle / 45°), the angle that of ``atan2(dy, dx)`` in [0°, 360°); exact, where a rounded angle of a diagonal
    falls to either side of it.
    """
    second, third, fourth = (dx <= 0) & (dy > 0), (dx < 0) & (dy <= 0), (dx >= 0) & (dy < 0)
    quadrant = second.long() + 2 * third.long() + 3 * fourth.long()
    from_y_axis = second | fourth  # the quadrant begins at the y axis
    along, across = torch.where(from_y_axis, dy, dx).abs(), torch.where(from_y_axis, dx, dy).abs()
    return 2 * quadrant + ((across >= along) & (along > 0)).long()
