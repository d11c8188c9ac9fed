"""Ranks and recalls of a score matrix, which is read in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import check_holds_data
from ..packing import as_tensor
from .metrics import Fold, FoldRanks, RecallMetrics, check_map, combine, split_folds
from .rank_count import RankCount

BLOCK_ELEMENTS = 1 << 24


def recall_metrics(
    scores: Any, captions_per_image: int = 5, *, caption_to_image: Any = None, folds: int = 1
) -> RecallMetrics:
    """R@1, R@5, R@10, median and mean rank in both directions, and rSum.

    Args:
        scores: (n_image, n_caption), higher is better: a numpy array, memmap, h5py dataset or torch tensor of a
            floating dtype. Infinities are allowed. It is read in blocks of rows, twice.
        captions_per_image: caption j belongs to image j // captions_per_image; used if there is no
            ``caption_to_image``.
        caption_to_image: (n_caption,) integers, the image of each caption, in any order and any number for each image.
        folds: number of equal runs of images, each evaluated alone with its images' captions; the metrics are the mean
            over the folds (MS-COCO 1K: five folds of 1000 images).

    Returns:
        RecallMetrics. The rank of a caption's image is 1 + the number of images that score higher + half the number of
        other images that score the same. The rank of an image is that of the best of its captions among the captions of
        other images, with ties counted as half in the same way. Sorting (``argsort()[::-1]`` in the field's code)
        breaks ties arbitrarily, so a constant matrix may show any recall there; here every rank is then in the middle.
        Without ties both are the same.

    Raises:
        TypeError: if scores or ``caption_to_image`` are of a wrong type or dtype.
        ValueError: for a wrong shape, a map that does not fit, folds that do not divide the images, or a NaN.
    """
    shape = check_scores(scores)
    owner = check_map(shape[0], shape[1], captions_per_image, caption_to_image)
    return combine([fold_ranks(scores, fold) for fold in split_folds(owner, shape[0], folds)], shape, folds)


def fold_ranks(scores: Any, fold: Fold, name: str = "scores") -> FoldRanks:
    """Ranks within one fold; ``scores`` covers all images and captions, ``name`` is the argument's name in errors.

    Raises:
        ValueError: for a NaN.
    """
    n_image, n_caption = fold.last - fold.first, len(fold.columns)
    columns: Any = fold.columns
    if n_caption == columns[-1] - columns[0] + 1:  # consecutive columns: a slice needs no copy
        columns = slice(int(columns[0]), int(columns[-1]) + 1)
    step = max(1, BLOCK_ELEMENTS // n_caption)

    def blocks() -> Iterator[tuple[slice, Tensor]]:
        for first in range(0, n_image, step):
            rows = slice(first, min(first + step, n_image))
            yield rows, _read_block(scores, slice(fold.first + rows.start, fold.first + rows.stop), columns)

    ranks: RankCount | None = None
    all_columns = slice(0, n_caption)
    for rows, block in blocks():
        # The sum is quick to check; it is NaN if a score is, but also if there are infinities of both signs.
        if block.sum().isnan() and len(bad := block.isnan().nonzero()) > 0:
            i, j = bad[0].tolist()
            raise ValueError(
                f"{name}: expected no NaN, got one at image {fold.first + rows.start + i}, caption {fold.columns[j]}"
            )
        if ranks is None:
            ranks = RankCount(fold.owner, n_image, 1, block.dtype, torch.device("cpu"))
        ranks.add_true_pairs(rows, all_columns, block)
    assert ranks is not None  # a fold has an image
    ranks.finish_true_pairs()
    for rows, block in blocks():
        ranks.count(rows, all_columns, block)
    return FoldRanks(fold, *ranks.ranks())


def check_scores(scores: Any, name: str = "scores") -> tuple[int, int]:
    """The shape of a score matrix; TypeError if it is no floating array or tensor, ValueError if it is not a matrix."""
    if isinstance(scores, (np.ndarray, Tensor)):
        check_holds_data(name, scores)
    if not hasattr(scores, "shape") or not hasattr(scores, "dtype"):
        got = type(scores).__name__
        hint = "; numpy.asarray makes one" if isinstance(scores, (list, tuple)) else ""
        raise TypeError(f"{name}: expected a numpy array or a torch tensor, got {got}{hint}")
    floating = scores.dtype.is_floating_point if isinstance(scores, torch.Tensor) else scores.dtype.kind == "f"
    if not floating:
        raise TypeError(f"{name}: expected a floating dtype, got {str(scores.dtype).removeprefix('torch.')}")
    shape = tuple(scores.shape)
    if len(shape) != 2:
        raise ValueError(f"{name}: expected shape (n_image, n_caption), got {shape}")
    return shape[0], shape[1]


def dense(scores: Any) -> np.ndarray:
    """A checked score matrix as one array: float32, or float64 for wider dtypes, so that no scores become equal."""
    return _read_block(scores, slice(None), slice(None)).numpy()


def checked_matrix(scores: Any) -> np.ndarray:
    """A whole score matrix as :func:`dense` gives it; raises as :func:`check_scores` does, and ValueError for a NaN."""
    check_scores(scores)
    matrix = dense(scores)
    if np.isnan(matrix).any():
        raise ValueError("scores: expected no NaN, got one")
    return matrix


def _read_block(scores: Any, rows: slice, columns: Any) -> Tensor:
    """A block of the matrix as float32, or float64 for wider dtypes."""
    block = scores[rows]
    if isinstance(block, Tensor):
        block = block.detach().cpu()[:, columns]
        return block if block.dtype == torch.float64 else block.float()
    block = np.asarray(block)[:, columns]
    dtype = np.float32 if block.dtype.itemsize <= 4 else np.float64
    return as_tensor(block.astype(dtype, copy=False))
