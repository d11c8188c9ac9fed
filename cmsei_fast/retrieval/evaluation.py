"""Features to recalls in one call, without the score matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from ..progress import Progress
from ..scorer import PairScorer
from ..scoring import prepare
from ..tiling import ScoreTiles, TileStream
from .metrics import RecallMetrics, check_map
from .rank_count import RankCount

# Bytes of tiles with true pairs that are kept until they are counted; those beyond are scored twice.
KEPT_BYTES = 1 << 27


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
    and the folds those of :func:`cmsei_fast.recall_metrics`, and so are the numbers, to the bit. No matrix is held:
    memory grows with the images and captions, not with their pairs. Pairs of two folds are scored only where a tile
    holds both (five folds take about a fifth of the time). Tiles with true pairs come first; where captions lie far
    from the order of their images, these are many, and the work may double.

    Raises:
        TypeError, ValueError, MemoryError: as those two functions do, before a pair is scored where that can be known.
    """
    problem = prepare(images, captions, caption_lengths, image_lengths, scorer, engine, precision)
    n_image, n_caption = problem.shape
    owner = check_map(n_image, n_caption, captions_per_image, caption_to_image)
    ranks = RankCount(owner, n_image, folds, problem.dtype, problem.device)
    count_ranks(TileStream(problem), ranks, progress)
    return ranks.metrics()


def count_ranks(stream: ScoreTiles, ranks: RankCount, progress: bool) -> int:
    """Streams the tiles that the ranks need, those with true pairs first; gives the number of their pairs."""
    grid = stream.grid
    first, needed = ranks.own_tiles(grid), ranks.needed_tiles(grid)
    kept: dict[tuple[int, int], Tensor] = {}
    room = KEPT_BYTES
    bar = Progress(grid.pairs(needed)) if progress else None
    try:
        for i, j, tile in stream.tiles(first):
            ranks.add_own(grid.rows(i), grid.columns(j), tile)
            size = tile.numel() * tile.element_size()
            if size <= room:
                room -= size
                kept[i, j] = tile
                if bar is not None:
                    bar.update(tile.numel())
        ranks.settle()
        for (i, j), tile in kept.items():
            ranks.count(grid.rows(i), grid.columns(j), tile)
        rest = needed.copy()
        rest[tuple(np.array(list(kept), dtype=np.int64).reshape(-1, 2).T)] = False
        kept.clear()
        for i, j, tile in stream.tiles(rest):
            ranks.count(grid.rows(i), grid.columns(j), tile)
            if bar is not None:
                bar.update(tile.numel())
    finally:
        if bar is not None:
            bar.close()
    return grid.pairs(needed)
