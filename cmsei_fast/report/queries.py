"""The queries with the worst and the best ranks, with their highest-scoring candidates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..retrieval.metrics import Fold, RecallMetrics, split_folds

_BLOCK = 1 << 22  # scores that are copied at once


@dataclass(frozen=True)
class Candidate:
    """One candidate: its index, its score, and whether it belongs to the query."""

    index: int
    score: float
    own: bool


@dataclass(frozen=True)
class Query:
    """One query with its highest-scoring candidates.

    Args:
        index: of the image (image to text) or the caption (text to image).
        rank: rank of its own image, or of the best of its own captions.
        own: its own image, or the best of its own captions.
        top: the candidates with the highest scores, best first; of equal scores, the lower index comes first.
    """

    index: int
    rank: float
    own: Candidate
    top: tuple[Candidate, ...]


@dataclass(frozen=True)
class Extremes:
    """The worst queries, the worst first, and the best queries, the best first."""

    worst: tuple[Query, ...]
    best: tuple[Query, ...]


def extremes(
    scores: Any, metrics: RecallMetrics, caption_to_image: np.ndarray, *, count: int = 5, top: int = 5
) -> tuple[Extremes, Extremes]:
    """The worst and best queries among the images, and among the captions.

    The worst have the highest rank, the best the lowest. Equal ranks are ordered by how far the best of a query's own
    candidates scores above the best other one. The matrix is read once, in blocks of rows.

    Args:
        scores: (n_image, n_caption) floating, an array or a memmap, without NaN.
        metrics: of these scores.
        caption_to_image: (n_caption,) int64, the map that the metrics were made with.
        count: at most so many worst and so many best queries.
        top: number of candidates given for each query.
    """
    n_image, n_caption = scores.shape
    folds = split_folds(caption_to_image, n_image, metrics.folds)
    image_margin, caption_margin = np.zeros(n_image), np.zeros(n_caption)
    for fold in folds:
        images, captions = _margins(scores, fold)
        image_margin[fold.first : fold.last] = images
        caption_margin[fold.columns] = captions
    size = n_image // metrics.folds

    def image_query(i: int) -> Query:
        fold = folds[i // size]
        row = np.asarray(scores[i], dtype=np.float64)[fold.columns]
        return _query(i, metrics.i2t.ranks[i], row, fold.columns, fold.owner + fold.first == i, top)

    def caption_query(j: int) -> Query:
        fold = folds[int(caption_to_image[j]) // size]
        column = np.asarray(scores[fold.first : fold.last, j], dtype=np.float64)
        candidates = np.arange(fold.first, fold.last)
        return _query(j, metrics.t2i.ranks[j], column, candidates, candidates == caption_to_image[j], top)

    out = []
    for ranks, margin, make_query in (
        (metrics.i2t.ranks, image_margin, image_query),
        (metrics.t2i.ranks, caption_margin, caption_query),
    ):
        order = np.lexsort((-margin, ranks))
        order = order[~np.isnan(ranks[order])]
        n = min(count, (len(order) + 1) // 2)  # with few queries, none is listed as both
        best = tuple(make_query(int(i)) for i in order[:n])
        out.append(Extremes(tuple(make_query(int(i)) for i in order[::-1][: min(n, len(order) - n)]), best))
    return out[0], out[1]


def _margins(scores: Any, fold: Fold) -> tuple[np.ndarray, np.ndarray]:
    """Best own score minus best other score of each image and each caption of a fold."""
    n_image, n_caption = fold.last - fold.first, len(fold.columns)
    own_scores = np.zeros(n_caption)
    image_best_own, image_best_other = np.full(n_image, -np.inf), np.full(n_image, -np.inf)
    caption_best_other = np.full(n_caption, -np.inf)
    columns_by_image = np.argsort(fold.owner, kind="stable")
    starts = np.searchsorted(fold.owner[columns_by_image], np.arange(n_image + 1))
    for first, block in _row_blocks(scores, fold):
        rows = slice(first, first + len(block))
        true_captions = columns_by_image[starts[first] : starts[first + len(block)]]
        true_pairs = fold.owner[true_captions] - first, true_captions
        own_scores[true_captions] = block[true_pairs]
        block[true_pairs] = -np.inf
        image_best_other[rows] = block.max(1)
        np.maximum(caption_best_other, block.max(0), out=caption_best_other)
    np.maximum.at(image_best_own, fold.owner, own_scores)
    with np.errstate(invalid="ignore"):
        margins = image_best_own - image_best_other, own_scores - caption_best_other
    return np.nan_to_num(margins[0], nan=0.0), np.nan_to_num(margins[1], nan=0.0)


def _row_blocks(scores: Any, fold: Fold) -> Iterator[tuple[int, np.ndarray]]:
    """Copies of a fold's rows, some at a time, as float32 or wider."""
    columns: Any = fold.columns
    if len(columns) == columns[-1] - columns[0] + 1:
        columns = slice(int(columns[0]), int(columns[-1]) + 1)
    rows = max(1, _BLOCK // len(fold.columns))
    for first in range(fold.first, fold.last, rows):
        block = np.asarray(scores[first : min(first + rows, fold.last)])[:, columns]
        dtype = np.float32 if block.dtype == np.float16 else block.dtype
        yield first - fold.first, np.array(block, dtype=dtype)


def _query(index: int, rank: float, values: np.ndarray, candidates: np.ndarray, is_own: np.ndarray, top: int) -> Query:
    order = np.argsort(-values, kind="stable")
    best_own = int(order[np.argmax(is_own[order])])

    def candidate(i: int) -> Candidate:
        return Candidate(int(candidates[i]), float(values[i]), bool(is_own[i]))

    return Query(index, float(rank), candidate(best_own), tuple(candidate(int(i)) for i in order[:top]))
