"""Recalls and rSum from ranks (the protocol of SCAN, Lee et al. 2018), and checks of the caption map and the folds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..checks import integers, is_whole

LEVELS = (1, 5, 10)


@dataclass(frozen=True, eq=False)
class DirectionMetrics:
    """Retrieval in one direction; recalls in percent, ranks from 1. Two are equal if all their numbers and ranks are.

    Args:
        r1: percentage of queries with a rank <= 1; ``r5``, ``r10`` likewise.
        median_rank: mean over the folds of the median rank; ``mean_rank`` of the mean rank.
        ranks: float64, the rank of each query within its fold, in the order of the queries. It ends in .5 after an odd
            number of ties, and is NaN for an image without a caption, which is no query.
    """

    r1: float
    r5: float
    r10: float
    median_rank: float
    mean_rank: float
    ranks: np.ndarray = field(repr=False)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DirectionMetrics):
            return NotImplemented
        return self.to_dict() == other.to_dict() and np.array_equal(self.ranks, other.ranks, equal_nan=True)

    def __hash__(self) -> int:
        return hash(tuple(self.to_dict().values()))

    def to_dict(self) -> dict[str, float]:
        """The five numbers by their usual names, without the ranks."""
        return {
            "R@1": self.r1,
            "R@5": self.r5,
            "R@10": self.r10,
            "median rank": self.median_rank,
            "mean rank": self.mean_rank,
        }


@dataclass(frozen=True)
class RecallMetrics:
    """Recalls and ranks in both directions of retrieval.

    Args:
        i2t: images are the queries.
        t2i: captions are the queries.
        folds: number of folds that the metrics are the mean of.
    """

    i2t: DirectionMetrics
    t2i: DirectionMetrics
    folds: int = 1

    @property
    def rsum(self) -> float:
        """Sum of the six recalls, in percent."""
        return sum((d.r1 + d.r5 + d.r10) for d in (self.i2t, self.t2i))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return {"i2t": self.i2t.to_dict(), "t2i": self.t2i.to_dict(), "rSum": self.rsum, "folds": self.folds}

    def __str__(self) -> str:
        lines = [f"{'':15}{'R@1':>7}{'R@5':>7}{'R@10':>7}{'median':>9}{'mean':>9}"]
        for name, d in (("image to text", self.i2t), ("text to image", self.t2i)):
            lines.append(f"{name:15}{d.r1:7.1f}{d.r5:7.1f}{d.r10:7.1f}{d.median_rank:9.1f}{d.mean_rank:9.1f}")
        return "\n".join([*lines, f"{'rSum':15}{self.rsum:7.1f}"])


@dataclass(frozen=True)
class Fold:
    """A run of images ``first <= i < last`` with the columns of the captions that belong to them."""

    first: int
    last: int
    columns: np.ndarray
    owner: np.ndarray  # the image of each column, counted from ``first``


@dataclass(frozen=True)
class FoldRanks:
    """Ranks of one fold's images (NaN without a caption) and captions."""

    fold: Fold
    images: np.ndarray
    captions: np.ndarray


def check_map(n_image: int, n_caption: int, captions_per_image: int, caption_to_image: Any) -> np.ndarray:
    """The map from captions to images as (n_caption,) int64, checked against the sizes.

    Raises:
        TypeError: if the map does not hold integers.
        ValueError: if it does not fit, or if there is no image or no caption.
    """
    if n_image == 0 or n_caption == 0:
        raise ValueError(f"scores: expected at least one image and one caption, got shape ({n_image}, {n_caption})")
    if caption_to_image is None:
        if not is_whole(captions_per_image):
            got = repr(captions_per_image)
            if hasattr(captions_per_image, "__len__"):
                got = f"{type(captions_per_image).__name__}; caption_to_image= takes the image of each caption"
            raise ValueError(f"captions_per_image: expected an integer >= 1, got {got}")
        if n_caption != n_image * captions_per_image:
            hint = "give caption_to_image for another map"
            if n_caption == n_image:  # arrays of the field's code repeat each image for every one of its captions
                k = captions_per_image
                one_caption_hint = "where each image has one caption, write captions_per_image=1"
                hint = f"{one_caption_hint}; where each comes {k} times in a row, score images[::{k}]; or {hint}"
            elif n_image == n_caption * captions_per_image:
                hint = f"the transpose (n_image, n_caption) would fit; or {hint}"
            raise ValueError(
                f"captions_per_image: expected {captions_per_image} captions for each of {n_image} images "
                f"({n_image * captions_per_image}), got {n_caption}; {hint}"
            )
        return np.repeat(np.arange(n_image), captions_per_image)
    owner = integers("caption_to_image", caption_to_image)
    if owner.shape != (n_caption,):
        raise ValueError(f"caption_to_image: expected shape ({n_caption},), got {owner.shape}")
    wrong = np.nonzero((owner < 0) | (owner >= n_image))[0]
    if len(wrong):
        j = wrong[0]
        raise ValueError(f"caption_to_image[{j}]: expected an image from 0 to {n_image - 1}, got {owner[j]}")
    return owner.astype(np.int64)


def split_folds(owner: np.ndarray, n_image: int, folds: int) -> list[Fold]:
    """Splits the images into equal runs, each with its captions.

    Args:
        owner: (n_caption,) int64, the image of each caption.
        n_image: number of images.
        folds: number of runs.

    Raises:
        ValueError: if the folds do not divide the images or one of them has no caption.
    """
    if not is_whole(folds) or n_image % folds:
        raise ValueError(f"folds: expected an integer >= 1 that divides {n_image} images, got {folds!r}")
    size = n_image // folds
    out = []
    for first in range(0, n_image, size):
        columns = np.nonzero((owner >= first) & (owner < first + size))[0]
        if len(columns) == 0:
            raise ValueError(f"folds: expected a caption in each, got none for images {first} to {first + size - 1}")
        out.append(Fold(first, first + size, columns, owner[columns] - first))
    return out


def combine(parts: list[FoldRanks], shape: tuple[int, int], folds: int) -> RecallMetrics:
    """Metrics of the folds' ranks, averaged over the folds; ``shape`` is (n_image, n_caption)."""
    images, captions = np.full(shape[0], np.nan), np.full(shape[1], np.nan)
    for part in parts:
        images[part.fold.first : part.fold.last] = part.images
        captions[part.fold.columns] = part.captions
    i2t = _direction_metrics([part.images[~np.isnan(part.images)] for part in parts], images)
    return RecallMetrics(i2t, _direction_metrics([part.captions for part in parts], captions), folds)


def _direction_metrics(parts: list[np.ndarray], ranks: np.ndarray) -> DirectionMetrics:
    recalls = [float(np.mean([100 * np.mean(part <= level) for part in parts])) for level in LEVELS]
    median = float(np.mean([np.median(part) for part in parts]))
    mean = float(np.mean([np.mean(part) for part in parts]))
    return DirectionMetrics(recalls[0], recalls[1], recalls[2], median, mean, ranks)
