"""The k best captions of every image, or images of every caption, without the score matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..progress import Progress
from ..scorer import PairScorer
from ..scoring import prepare
from ..tiling import TileStream
from .topk import TopK

QUERIES = ("caption", "image")


@dataclass(frozen=True, eq=False)
class Retrieved:
    """What :func:`retrieve` found, best first; tensors for tensors, numpy arrays for arrays and datasets.

    Args:
        indices: (n_query, k) int64, the items.
        scores: (n_query, k), their scores: float64 for precision "float64", float32 for all others.
    """

    indices: Any
    scores: Any


def retrieve(
    images: Any,
    captions: Any,
    caption_lengths: Any = None,
    image_lengths: Any = None,
    *,
    k: int = 10,
    query: str = "caption",
    scorer: PairScorer | None = None,
    engine: str = "auto",
    precision: str | None = None,
    progress: bool = False,
) -> Retrieved:
    """The k items of the highest score for each query, exactly those of the whole score matrix, to the bit.

    The features, lengths, scorer, engine, precision and progress are those of :func:`cmsei_fast.score_matrix`. No
    matrix is held: memory grows with the queries times k.

    Args:
        k: items for each query, from 1; where there are fewer items, all of them.
        query: "caption": each caption asks for images; "image": each image for captions.

    Returns:
        Retrieved, (n_query, min(k, n_item)); of equal scores the lower index comes first.

    Raises:
        TypeError, ValueError, MemoryError: as :func:`cmsei_fast.score_matrix` does, and for k or query.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k: expected an integer >= 1, got {k!r}")
    if query not in QUERIES:
        raise ValueError(f'query: expected "caption" or "image", got {query!r}')
    problem = prepare(images, captions, caption_lengths, image_lengths, scorer, engine, precision)
    n_image, n_caption = problem.shape
    asks = (n_caption, n_image) if query == "caption" else (n_image, n_caption)
    best = TopK(*asks, k, problem.dtype, problem.device)
    stream = TileStream(problem)
    bar = Progress(n_image * n_caption) if progress else None
    try:
        with torch.no_grad():
            for i, j, tile in stream.tiles():
                rows, columns = stream.grid.rows(i), stream.grid.columns(j)
                best.update(*((columns, rows, tile.T) if query == "caption" else (rows, columns, tile)))
                if bar is not None:
                    bar.update(tile.numel())
    finally:
        if bar is not None:
            bar.close()
    found = best.indices, best.scores
    return Retrieved(*(found if isinstance(problem.images.data, Tensor) else (x.numpy() for x in found)))
