"""How much recalls would vary with other images: percentile intervals of the bootstrap (Efron 1979)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..checks import is_whole
from ..retrieval.metrics import LEVELS, RecallMetrics, split_folds

SAMPLES = 2000
_BLOCK = 1 << 22  # counts that are held at once


@dataclass(frozen=True)
class Interval:
    """The middle 95 % of the resampled values."""

    low: float
    high: float


def recall_intervals(
    metrics: RecallMetrics, caption_to_image: np.ndarray, *, samples: int = SAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """95 % intervals of recalls, mean ranks and rSum over resampled images.

    Images are drawn with replacement, as many as there are, within each fold; an image brings its captions with it, so
    that captions of one image, whose ranks are correlated, do not count as independent. A query keeps its rank among
    all candidates of its fold: the intervals show how much the figures depend on the choice of the queries.

    Args:
        metrics: of a score matrix, with its ranks.
        caption_to_image: (n_caption,) int64, the map that the metrics were made with.
        samples: number of resamplings.
        seed: seed of the random draws.

    Returns:
        By name: ``"i2t R@1"``, …, ``"t2i mean rank"``, and ``"rSum"``.

    Raises:
        ValueError: for less than two samples or a negative seed.
    """
    if not is_whole(samples, 2):
        raise ValueError(f"samples: expected an integer >= 2, got {samples!r}")
    if not is_whole(seed, 0):
        raise ValueError(f"seed: expected an integer >= 0, got {seed!r}")
    rng = np.random.default_rng(seed)
    names = [f"{d} {x}" for d in ("i2t", "t2i") for x in (*(f"R@{level}" for level in LEVELS), "mean rank")]
    values = np.zeros((samples, len(names)))
    folds = split_folds(caption_to_image, len(metrics.i2t.ranks), metrics.folds)
    for fold in folds:
        n_image = fold.last - fold.first
        images = metrics.i2t.ranks[fold.first : fold.last]
        is_query = ~np.isnan(images)
        captions = metrics.t2i.ranks[fold.columns]
        # Per image: number of its queries, how many of them are found at each level, and the sum of their ranks.
        image_values = [
            is_query.astype(float),
            *((images <= level).astype(float) for level in LEVELS),
            np.nan_to_num(images),
        ]
        caption_values = [np.ones_like(captions), *(captions <= level for level in LEVELS), captions]
        caption_sums = [np.bincount(fold.owner, weights=x, minlength=n_image) for x in caption_values]
        per_image = np.stack([*image_values, *caption_sums], axis=1)  # (n_image, 2 · 5)
        rows = max(1, _BLOCK // n_image)
        for first in range(0, samples, rows):
            size = min(rows, samples - first)
            # Images without captions are not drawn: a sample of only these has no recall. Draws are (size, n_image).
            draws = rng.multinomial(int(is_query.sum()), is_query / is_query.sum(), size=size).astype(float)
            sums = draws @ per_image  # (size, 2 · 5)
            scale = np.array([100.0] * len(LEVELS) + [1.0])
            means = [scale * part[:, 1:] / part[:, :1] for part in (sums[:, :5], sums[:, 5:])]
            values[first : first + size] += np.concatenate(means, axis=1) / len(folds)
    out = {name: _interval(values[:, column]) for column, name in enumerate(names)}
    recalls = [column for column, name in enumerate(names) if "R@" in name]
    return out | {"rSum": _interval(values[:, recalls].sum(1))}


def _interval(values: np.ndarray) -> Interval:
    low, high = np.quantile(values, (0.025, 0.975))
    return Interval(float(low), float(high))
