"""Features to recalls in one call."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..scorer import PairScorer
from ..scoring import prepare, score
from .metrics import Fold, RecallMetrics, check_map, combine, fold_ranks, split_folds


def evaluate(
    images: Any,
    captions: Any,
    caption_lengths: Any = None,
    image_lengths: Any = None,
    *,
    scorer: PairScorer | None = None,
    engine: str = "auto",
    precision: str | None = None,
    captions_per_image: int = 5,
    caption_to_image: Any = None,
    folds: int = 1,
    progress: bool = False,
) -> RecallMetrics:
    """Scores every image with every caption and measures retrieval both ways.

    The features, lengths, scorer, engine, precision and progress are those of :func:`cmsei_fast.score_matrix`; the map
    and the folds those of :func:`cmsei_fast.recall_metrics`. Where each fold's captions follow one another, only the
    pairs within the folds are scored (a fifth of them with five folds). Holds a fold's score matrix in memory.

    Raises:
        TypeError, ValueError, MemoryError: as those two functions do, before a pair is scored where that can be known.
    """
    problem = prepare(images, captions, caption_lengths, image_lengths, scorer, engine, precision)
    n_image, n_caption = problem.images.count, problem.captions.count
    owner = check_map(n_image, n_caption, captions_per_image, caption_to_image)
    parts = split_folds(owner, n_image, folds)
    if any(fold.columns[-1] - fold.columns[0] + 1 != len(fold.columns) for fold in parts):
        matrix = score(problem, progress=progress)
        return combine([fold_ranks(matrix, fold) for fold in parts], (n_image, n_caption), folds)
    ranks = []
    for fold in parts:
        low, high = int(fold.columns[0]), int(fold.columns[-1]) + 1
        matrix = score(problem.narrow(fold.first, fold.last, low, high), progress=progress)
        alone = fold_ranks(matrix, Fold(0, fold.last - fold.first, np.arange(high - low), fold.owner))
        ranks.append(type(alone)(fold, alone.images, alone.captions))
    return combine(ranks, (n_image, n_caption), folds)
