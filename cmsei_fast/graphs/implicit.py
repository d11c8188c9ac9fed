"""Implicit relations: every pair of regions is an edge with one label (Hire, arXiv 2406.18579)."""

from __future__ import annotations

import torch
from torch import Tensor

IMPLICIT_LABELS = 2  # label 0 is no edge


def implicit_labels(mask: Tensor) -> Tensor:
    """Labels of the complete graph, self included.

    Args:
        mask: (B, R) bool, True for regions, False for padding.

    Returns:
        (B, R, R) uint8: 1 between any two regions, 0 from or to padding.
    """
    return (mask[:, :, None] & mask[:, None, :]).to(torch.uint8)
