"""Ranks, recalls and rSum of a score matrix (the protocol of SCAN, Lee et al. 2018), read in blocks of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..checks import is_whole

LEVELS = (1, 5, 10)
BLOCK_ELEMENTS = 1 << 24


@dataclass(frozen=True, eq=False)
class DirectionMetrics:
    """Retrieval in one direction; recalls in percent, ranks from 1. Equal where all numbers are, ranks too.

    Args:
        r1: percentage of queries with a rank <= 1; ``r5``, ``r10`` likewise.
        median_rank: mean over the folds of the median rank; ``mean_rank`` of the mean rank.
        ranks: float64, one a query, in the order of the queries; a rank is within its fold, ends in .5 after an odd
            number of ties, and is NaN for an image without a caption, which asks nothing.
    """

    r1: float
    r5: float
    r10: float
    median_rank: float
    mean_rank: float
    ranks: np.ndarray

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
    """Image-to-text (an image asks for its captions) and text-to-image (a caption asks for its image)."""

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


def recall_metrics(
    scores: Any, captions_per_image: int = 5, *, caption_to_image: Any = None, folds: int = 1
) -> RecallMetrics:
    """R@1, R@5, R@10, median and mean rank in both directions, and rSum.

    Args:
        scores: (n_image, n_caption), higher is better: a numpy array, memmap, h5py dataset or torch tensor of a
            floating dtype. Infinities are allowed. It is read in blocks of rows, twice.
        captions_per_image: caption j belongs to image j // captions_per_image; used where there is no map.
        caption_to_image: (n_caption,) integers, the image of each caption, in any order and any number an image.
        folds: F equal runs of images, each evaluated alone with the captions of its images; the metrics are the mean
            over the folds (MS-COCO 1K: five folds of 1000 images).

    Returns:
        RecallMetrics. The rank of a caption's image is 1 + the images that score higher + half of the other images that
        score the same. The rank of an image is that of the best of its captions among the captions of other images,
        ties with those again counted as half. Sorting (``argsort()[::-1]`` in the field's code) puts ties in an
        order of its own, so a constant matrix may show any recall there; here every rank is then in the middle.
        Without ties both are the same.

    Raises:
        TypeError: if scores or the map are of another type or dtype.
        ValueError: for a wrong shape, a map that does not fit, folds that do not divide the images, or a NaN.
    """
    shape = _check_scores(scores)
    owner = check_map(shape[0], shape[1], captions_per_image, caption_to_image)
    return combine([fold_ranks(scores, fold) for fold in split_folds(owner, shape[0], folds)], shape, folds)


@dataclass(frozen=True)
class Fold:
    """A run of images ``first <= i < last`` with the captions (their columns) that belong to them."""

    first: int
    last: int
    columns: np.ndarray
    owner: np.ndarray  # of each column, counted from ``first``


@dataclass(frozen=True)
class FoldRanks:
    """Ranks of one fold's images (NaN without a caption) and captions."""

    fold: Fold
    images: np.ndarray
    captions: np.ndarray


def check_map(n_image: int, n_caption: int, captions_per_image: int, caption_to_image: Any) -> np.ndarray:
    """The map as (n_caption,) int64, checked against the sizes.

    Raises:
        TypeError: if the map does not hold integers.
        ValueError: if it does not fit, or if there is no image or no caption.
    """
    if n_image == 0 or n_caption == 0:
        raise ValueError(f"scores: expected at least one image and one caption, got shape ({n_image}, {n_caption})")
    if caption_to_image is None:
        if not is_whole(captions_per_image):
            raise ValueError(f"captions_per_image: expected an integer >= 1, got {captions_per_image!r}")
        if n_caption != n_image * captions_per_image:
            way = "give caption_to_image for another map"
            if n_caption == n_image:  # the field's arrays have each image once for every caption
                k = captions_per_image
                way = f"where each image comes {k} times in a row, score images[::{k}]; or {way}"
            elif n_image == n_caption * captions_per_image:
                way = f"the transpose (n_image, n_caption) would fit; or {way}"
            raise ValueError(
                f"captions_per_image: expected {captions_per_image} captions for each of {n_image} images "
                f"({n_image * captions_per_image}), got {n_caption}; {way}"
            )
        return np.repeat(np.arange(n_image), captions_per_image)
    if isinstance(caption_to_image, torch.Tensor):
        caption_to_image = caption_to_image.detach().cpu().numpy()
    owner = np.asarray(caption_to_image)
    if owner.dtype.kind not in "iu":
        raise TypeError(f"caption_to_image: expected integers, got {owner.dtype}")
    if owner.shape != (n_caption,):
        raise ValueError(f"caption_to_image: expected shape ({n_caption},), got {owner.shape}")
    wrong = np.nonzero((owner < 0) | (owner >= n_image))[0]
    if len(wrong):
        j = wrong[0]
        raise ValueError(f"caption_to_image[{j}]: expected an image from 0 to {n_image - 1}, got {owner[j]}")
    return owner.astype(np.int64)


def split_folds(owner: np.ndarray, n_image: int, folds: int) -> list[Fold]:
    """Equal runs of images with their captions.

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


def fold_ranks(scores: Any, fold: Fold) -> FoldRanks:
    """Ranks within one fold; ``scores`` covers all images and captions."""
    columns: Any = fold.columns
    if len(columns) == columns[-1] - columns[0] + 1:  # a run: a slice copies nothing
        columns = slice(int(columns[0]), int(columns[-1]) + 1)
    rows = max(1, BLOCK_ELEMENTS // len(fold.columns))

    def blocks() -> Iterator[tuple[int, np.ndarray]]:
        for first in range(fold.first, fold.last, rows):
            yield first - fold.first, _read(scores, first, min(first + rows, fold.last), columns)

    return _ranks(blocks, fold)


def _ranks(blocks: Callable[[], Iterator[tuple[int, np.ndarray]]], fold: Fold) -> FoldRanks:
    n_image, n_caption = fold.last - fold.first, len(fold.columns)
    by_image = np.argsort(fold.owner, kind="stable")  # captions, grouped by their image
    start = np.searchsorted(fold.owner[by_image], np.arange(n_image + 1))
    own = np.zeros(n_caption)  # score of each caption with its image
    for first, block in blocks():
        bad = np.isnan(block)
        if bad.any():
            i, j = np.argwhere(bad)[0]
            raise ValueError(
                f"scores: expected no NaN, got one at image {fold.first + first + i}, caption {fold.columns[j]}"
            )
        mine = by_image[start[first] : start[first + len(block)]]
        own[mine] = block[fold.owner[mine] - first, mine]

    best = np.full(n_image, np.nan)
    np.fmax.at(best, fold.owner, own)
    best_own = np.bincount(fold.owner[own == best[fold.owner]], minlength=n_image)  # own captions as good as the best

    images = np.full(n_image, np.nan)
    above = np.zeros(n_caption, dtype=np.int64)
    equal = np.zeros(n_caption, dtype=np.int64)
    for first, block in blocks():
        rows = slice(first, first + len(block))
        above += np.count_nonzero(block > own.astype(block.dtype), axis=0)
        equal += np.count_nonzero(block == own.astype(block.dtype), axis=0)
        level = best[rows, None].astype(block.dtype)
        ties = np.count_nonzero(block == level, axis=1) - best_own[rows]
        images[rows] = 1 + np.count_nonzero(block > level, axis=1) + ties / 2
    images[np.isnan(best)] = np.nan
    return FoldRanks(fold, images, 1 + above + (equal - 1) / 2)


def combine(parts: list[FoldRanks], shape: tuple[int, int], folds: int) -> RecallMetrics:
    """Metrics of the folds' ranks, averaged over the folds."""
    images, captions = np.full(shape[0], np.nan), np.full(shape[1], np.nan)
    for part in parts:
        images[part.fold.first : part.fold.last] = part.images
        captions[part.fold.columns] = part.captions
    i2t = _direction([part.images[~np.isnan(part.images)] for part in parts], images)
    return RecallMetrics(i2t, _direction([part.captions for part in parts], captions), folds)


def _direction(parts: list[np.ndarray], ranks: np.ndarray) -> DirectionMetrics:
    recalls = [float(np.mean([100 * np.mean(part <= level) for part in parts])) for level in LEVELS]
    median = float(np.mean([np.median(part) for part in parts]))
    mean = float(np.mean([np.mean(part) for part in parts]))
    return DirectionMetrics(recalls[0], recalls[1], recalls[2], median, mean, ranks)


def _check_scores(scores: Any) -> tuple[int, int]:
    if not hasattr(scores, "shape") or not hasattr(scores, "dtype"):
        raise TypeError(f"scores: expected a numpy array or a torch tensor, got {type(scores).__name__}")
    floating = scores.dtype.is_floating_point if isinstance(scores, torch.Tensor) else scores.dtype.kind == "f"
    if not floating:
        raise TypeError(f"scores: expected a floating dtype, got {str(scores.dtype).removeprefix('torch.')}")
    shape = tuple(scores.shape)
    if len(shape) != 2:
        raise ValueError(f"scores: expected shape (n_image, n_caption), got {shape}")
    return shape[0], shape[1]


def _read(scores: Any, first: int, last: int, columns: Any) -> np.ndarray:
    """Rows of the matrix as float32 or wider (comparing float16 in numpy is slow)."""
    block = scores[first:last]
    if isinstance(block, torch.Tensor):
        block = block.detach().cpu()
        block = (block.float() if block.dtype in (torch.float16, torch.bfloat16) else block).numpy()
    block = np.asarray(block)[:, columns]
    return block.astype(np.float32) if block.dtype == np.float16 else block
