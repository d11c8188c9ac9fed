"""The queries that a score matrix answers worst and best, with its answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..retrieval.metrics import Fold, RecallMetrics, split_folds

_BLOCK = 1 << 22  # scores that are copied at once


@dataclass(frozen=True)
class Found:
    """One candidate: its index, its score, and whether it belongs to the query."""

    index: int
    score: float
    own: bool


@dataclass(frozen=True)
class Query:
    """One query and its answer.

    Args:
        index: of the image (image to text) or the caption (text to image).
        rank: of its own image, or of the best of its own captions.
        own: the best of its own.
        top: the candidates of the highest scores, in order; of equal scores the first comes first.
    """

    index: int
    rank: float
    own: Found
    top: tuple[Found, ...]


@dataclass(frozen=True)
class Extremes:
    """The worst first, the best first."""

    worst: tuple[Query, ...]
    best: tuple[Query, ...]


def extremes(
    scores: Any, metrics: RecallMetrics, caption_to_image: np.ndarray, *, count: int = 5, top: int = 5
) -> tuple[Extremes, Extremes]:
    """Images that ask for captions, and captions that ask for their image.

    Worst are those of the highest rank, best those of the lowest; among equals it is by how far the best of a query's
    own scores above the best of the others. One pass over the matrix, in blocks of rows.

    Args:
        scores: (n_image, n_caption) floating, an array or a memmap, without NaN.
        metrics: of these scores.
        caption_to_image: (n_caption,) int64, the map that the metrics were made with.
        count: queries of each kind, at most.
        top: candidates of each.
    """
    n_image, n_caption = scores.shape
    folds = split_folds(caption_to_image, n_image, metrics.folds)
    image_margin, caption_margin = np.zeros(n_image), np.zeros(n_caption)
    for fold in folds:
        images, captions = _margins(scores, fold)
        image_margin[fold.first : fold.last] = images
        caption_margin[fold.columns] = captions
    size = n_image // metrics.folds

    def of_image(i: int) -> Query:
        fold = folds[i // size]
        row = np.asarray(scores[i], dtype=np.float64)[fold.columns]
        return _query(i, metrics.i2t.ranks[i], row, fold.columns, fold.owner + fold.first == i, top)

    def of_caption(j: int) -> Query:
        fold = folds[int(caption_to_image[j]) // size]
        column = np.asarray(scores[fold.first : fold.last, j], dtype=np.float64)
        candidates = np.arange(fold.first, fold.last)
        return _query(j, metrics.t2i.ranks[j], column, candidates, candidates == caption_to_image[j], top)

    out = []
    for ranks, margin, answer in (
        (metrics.i2t.ranks, image_margin, of_image),
        (metrics.t2i.ranks, caption_margin, of_caption),
    ):
        order = np.lexsort((-margin, ranks))
        order = order[~np.isnan(ranks[order])]
        n = min(count, (len(order) + 1) // 2)  # of few queries none is both
        best = tuple(answer(int(i)) for i in order[:n])
        out.append(Extremes(tuple(answer(int(i)) for i in order[::-1][: min(n, len(order) - n)]), best))
    return out[0], out[1]


def _margins(scores: Any, fold: Fold) -> tuple[np.ndarray, np.ndarray]:
    """Best own score minus best other score of each image and each caption of a fold."""
    n_image, n_caption = fold.last - fold.first, len(fold.columns)
    own = np.zeros(n_caption)
    best_own, image_rival = np.full(n_image, -np.inf), np.full(n_image, -np.inf)
    caption_rival = np.full(n_caption, -np.inf)
    by_image = np.argsort(fold.owner, kind="stable")
    start = np.searchsorted(fold.owner[by_image], np.arange(n_image + 1))
    for first, block in _blocks(scores, fold):
        rows = slice(first, first + len(block))
        mine = by_image[start[first] : start[first + len(block)]]
        at = fold.owner[mine] - first, mine
        own[mine] = block[at]
        block[at] = -np.inf
        image_rival[rows] = block.max(1)
        np.maximum(caption_rival, block.max(0), out=caption_rival)
    np.maximum.at(best_own, fold.owner, own)
    with np.errstate(invalid="ignore"):
        margins = best_own - image_rival, own - caption_rival
    return np.nan_to_num(margins[0], nan=0.0), np.nan_to_num(margins[1], nan=0.0)


def _blocks(scores: Any, fold: Fold) -> Iterator[tuple[int, np.ndarray]]:
    """Copies of a fold's rows, some at a time, as float32 or wider."""
    columns: Any = fold.columns
    if len(columns) == columns[-1] - columns[0] + 1:
        columns = slice(int(columns[0]), int(columns[-1]) + 1)
    rows = max(1, _BLOCK // len(fold.columns))
    for first in range(fold.first, fold.last, rows):
        block = np.asarray(scores[first : min(first + rows, fold.last)])[:, columns]
        dtype = np.float32 if block.dtype == np.float16 else block.dtype
        yield first - fold.first, np.array(block, dtype=dtype)


def _query(index: int, rank: float, values: np.ndarray, candidates: np.ndarray, own: np.ndarray, top: int) -> Query:
    order = np.argsort(-values, kind="stable")
    best = int(order[np.argmax(own[order])])

    def found(i: int) -> Found:
        return Found(int(candidates[i]), float(values[i]), bool(own[i]))

    return Query(index, float(rank), found(best), tuple(found(int(i)) for i in order[:top]))
