"""Accuracy of choosing within groups: whether a caption's own image beats the other images of its group."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..checks import integers
from .matrix import checked_matrix
from .metrics import check_map


def group_accuracy(scores: Any, caption_to_image: Any, group: Any) -> float:
    """Percentage of captions whose image scores highest among the images of its group.

    Args:
        scores: (n_image, n_caption) floating, numpy or torch. Infinities are allowed.
        caption_to_image: (n_caption,) integers.
        group: (n_image,) integers; images with the same number compete.

    Returns:
        The percentage; a tie of t images counts as 1 / t, so that constant scores are at chance.

    Raises:
        TypeError, ValueError: for a map or groups that do not fit the scores, and for NaN.
    """
    matrix = checked_matrix(scores)
    owner = check_map(matrix.shape[0], matrix.shape[1], 1, caption_to_image)
    group_numbers = integers("group", group)
    if group_numbers.shape != (len(matrix),):
        raise ValueError(f"group: expected shape ({len(matrix)},), one per image, got {group_numbers.shape}")
    own_scores = matrix[owner, np.arange(len(owner))]
    rivals = group_numbers[:, None] == group_numbers[owner]  # (n_image, n_caption)
    best = np.where(rivals, matrix, -np.inf).max(0)
    return float(100 * np.mean((own_scores == best) / (rivals & (matrix == best)).sum(0)))
