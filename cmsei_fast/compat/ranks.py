"""Recalls and ranks, shared by ``i2t`` and ``t2i`` of all the field's repositories."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..retrieval.matrix import check_scores, dense, fold_ranks
from ..retrieval.metrics import LEVELS, split_folds


def retrieval(
    direction: str, npts: Any, sims: Any, return_ranks: bool, captions_per_image: int = 5, name: str = "sims"
) -> Any:
    """(R@1, R@5, R@10, median rank, mean rank), and (ranks, top1) with return_ranks.

    Args:
        direction: ``"i2t"`` or ``"t2i"``.
        npts: number of images, None for the rows of sims.
        sims: (npts, captions_per_image · npts).
        return_ranks: add the ranks and the best items.
        captions_per_image: K; caption j belongs to image j // K.
        name: of sims in the public function, for errors.

    Raises:
        TypeError: if sims is no floating array or tensor.
        ValueError: if its shape does not fit npts, or for a NaN.
    """
    rows, columns = check_scores(sims, name)
    if npts is not None and npts != rows:
        raise ValueError(f"{name}: expected {npts} rows (npts, one per image), got shape ({rows}, {columns})")
    if 0 in (rows, columns):
        raise ValueError(f"{name}: expected at least one image and one caption, got shape ({rows}, {columns})")
    if columns != rows * captions_per_image:
        raise ValueError(
            f"{name}: expected {captions_per_image} captions for each of {rows} images "
            f"({rows * captions_per_image} columns), got {columns}{_layout_hint(rows, columns, captions_per_image)}"
        )
    owner = np.repeat(np.arange(rows), captions_per_image)
    fold = fold_ranks(sims, split_folds(owner, rows, 1)[0], name)
    # The field's ranks are whole and count from 0; a half, from an odd number of ties, is rounded up against the model.
    ranks = np.ceil((fold.images if direction == "i2t" else fold.captions) - 1)
    top1 = dense(sims).argmax(1 if direction == "i2t" else 0).astype(float)
    # In the field's order of operations: 100 times the mean may differ in the last bit.
    recalls = [100.0 * int(np.count_nonzero(ranks < level)) / len(ranks) for level in LEVELS]
    metrics = (recalls[0], recalls[1], recalls[2], float(np.floor(np.median(ranks)) + 1), float(ranks.mean() + 1))
    return (metrics, (ranks, top1)) if return_ranks else metrics


def _layout_hint(rows: int, columns: int, captions_per_image: int) -> str:
    """A hint for the error, where the shape tells what the matrix is instead; else nothing."""
    if rows == columns and rows % captions_per_image == 0:
        k = captions_per_image
        return f"; where each image comes {k} times in a row, sims[::{k}] has each once"
    if rows == columns * captions_per_image:
        return "; its transpose has them"
    return ""


def check_images(images: Any, sims: Any) -> None:
    """Checks that sims has a row for each image, where a function takes the features of the images to count them.

    Raises:
        TypeError: if images have no length, or sims is no floating array or tensor.
        ValueError: if sims has another rank or number of rows.
    """
    try:
        n = len(images)
    except TypeError:  # 0-d arrays have the method and no length
        raise TypeError(f"images: expected a sequence or an array, got {type(images).__name__}") from None
    rows, _ = check_scores(sims, "sims")
    if n != rows:
        raise ValueError(f"sims: expected a row for each of {n} images, got {rows}")
