"""A seeded score matrix whose images and captions mostly find each other, and whose each caption is."""

from __future__ import annotations

import numpy as np


def matrix(n_image: int = 40, per_image: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(n_image, n_caption) float32 scores, and the image of each caption."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(n_image), per_image)
    own = owner == np.arange(n_image)[:, None]
    return (rng.standard_normal((n_image, len(owner))) + 2 * own).astype(np.float32), owner
