"""Recalls from features in one call, without the score matrix."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..compiling import outside_graphs
from ..distributed import Team
from ..scorer import PairScorer
from ..scoring import prepare
from ..tiling import Grid, ScoreTiles, TileStream
from .metrics import RecallMetrics, check_map
from .rank_count import RankCount
from .screen import Screen, ScreenedTile, check_screen

# Bytes of tiles with true pairs that are kept until they can be counted; tiles that do not fit are scored twice.
KEPT_BYTES = 1 << 27


@outside_graphs
def evaluate(
    images: Any,
    captions: Any,
    caption_lengths: Any = None,
    image_lengths: Any = None,
    *,
    scorer: PairScorer | None = None,
    engine: str = "auto",
    precision: str | None = None,
    screen: str | None = None,
    captions_per_image: int = 5,
    caption_to_image: Any = None,
    folds: int = 1,
    progress: bool = False,
    group: Any = None,
) -> RecallMetrics:
    """Scores every image with every caption and measures retrieval both ways.

    Features, lengths, ``scorer``, ``engine``, ``precision`` and ``progress`` are as in :func:`cmsei_fast.score_matrix`;
    ``captions_per_image``, ``caption_to_image`` and ``folds`` as in :func:`cmsei_fast.recall_metrics`. The metrics are
    those of that function, to the bit, but no matrix is held: memory grows with the number of images and captions, not
    of pairs. Pairs across folds are scored only if they share a tile (so five folds take about a fifth of the time).
    Tiles with true pairs are scored first; if the captions are not in the order of their images, these can be so many
    that the work doubles.

    Args:
        screen: "bfloat16": score with rounded features first, as :func:`cmsei_fast.retrieve` does, and score exactly
            only the pairs that this leaves undecided; the metrics are the same.
        group: of torch.distributed: its processes, each with the same call, share the tiles; all get the same metrics
            as one process would (docs/distributed.md). None: this process alone.

    Raises:
        TypeError, ValueError, MemoryError: as those two functions do; before a pair is scored, if possible.
        ProcessLost: if another process of the group failed or is lost.
    """
    problem = prepare(images, captions, caption_lengths, image_lengths, scorer, engine, precision)
    n_image, n_caption = problem.shape
    owner = check_map(n_image, n_caption, captions_per_image, caption_to_image)
    check_screen(screen, problem)
    ranks = RankCount(owner, n_image, folds, problem.dtype, problem.device)
    stream = TileStream(problem)
    team = Team(group, stream)
    if screen is None:
        count_ranks(stream, ranks, progress, team)
    else:
        count_ranks_screened(Screen(stream), ranks, progress, team)
    return ranks.metrics()


def count_ranks(stream: ScoreTiles, ranks: RankCount, progress: bool, team: Team) -> int:
    """Streams the tiles that the ranks need, those with true pairs first; returns the number of pairs in them."""
    grid = stream.grid
    cache = _TileCache(grid)

    def first_pass(i: int, j: int, tile: Tensor) -> int:
        ranks.add_true_pairs(grid.rows(i), grid.columns(j), tile)
        return cache.add(i, j, tile)

    def second_pass(i: int, j: int, tile: Tensor) -> int:
        ranks.count(grid.rows(i), grid.columns(j), tile)
        return tile.numel()

    return _run_two_passes(first_pass, second_pass, cache, ranks, progress, team)


@torch.no_grad()
def count_ranks_screened(screen: Screen, ranks: RankCount, progress: bool, team: Team) -> None:
    """As :func:`count_ranks`, but with rounded features first, and exactly only for true pairs and undecided pairs."""
    cache = _TileCache(screen.grid)

    def first_pass(i: int, j: int, tile: ScreenedTile) -> int:
        mask = ranks.true_pairs(tile.rows, tile.columns)
        scores = torch.zeros(mask.shape, dtype=screen.problem.dtype, device=mask.device)
        scores[mask] = tile.exact(mask)
        ranks.add_true_pairs(tile.rows, tile.columns, scores)
        return 0 if tile.exact_scores is None else cache.add(i, j, tile.exact_scores)

    def second_pass(i: int, j: int, tile: ScreenedTile) -> int:
        for piece in tile.pieces("image"):
            scores, _ = piece.resolve(partial(ranks.undecided, piece.rows, piece.columns))
            ranks.count(piece.rows, piece.columns, scores)
        return tile.pairs

    _run_two_passes(first_pass, second_pass, cache, ranks, progress, team, screen)


def _run_two_passes(
    first_pass: Callable[[int, int, Any], int],
    second_pass: Callable[[int, int, Any], int],
    cache: _TileCache,
    ranks: RankCount,
    progress: bool,
    team: Team,
    screen: Screen | None = None,
) -> int:
    """Runs ``first_pass`` over the tiles with true pairs, then ``second_pass`` over the needed tiles not in the cache.

    Returns the number of pairs in the needed tiles.
    """
    grid = cache.grid
    with_true_pairs, needed = ranks.true_pair_tiles(grid), ranks.needed_tiles(grid)
    source = None if screen is None else screen.tiles
    map_checksum = zlib.crc32(np.ascontiguousarray(ranks.owner).tobytes())
    team.agree(map=map_checksum, folds=ranks.folds, screen=None if screen is None else "bfloat16")
    team.deal(needed)
    bar = team.bar(progress, grid.pairs(needed))
    try:
        team.run(with_true_pairs, first_pass, bar, source)
        team.sum_(ranks.true_scores, ranks.known)
        ranks.finish_true_pairs()
        team.run(needed & ~cache.count_into(ranks), second_pass, bar, source)
        team.sum_(ranks.caption_counts, ranks.image_counts)
    finally:
        if bar is not None:
            bar.close()
    return grid.pairs(needed)


class _TileCache:
    """Keeps tiles of the first pass, as many as fit into ``KEPT_BYTES``, until all true pairs are known."""

    def __init__(self, grid: Grid) -> None:
        self.grid, self._room = grid, KEPT_BYTES
        self._tiles: dict[tuple[int, int], Tensor] = {}

    def add(self, i: int, j: int, tile: Tensor) -> int:
        """Keeps a tile; returns the number of its pairs, or 0 if there is no room."""
        size = tile.numel() * tile.element_size()
        if size > self._room:
            return 0
        self._room -= size
        self._tiles[i, j] = tile
        return tile.numel()

    def count_into(self, ranks: RankCount) -> np.ndarray:
        """Counts the tiles in ``ranks`` and drops them; returns (I, J) bool, which tiles they were."""
        counted = np.zeros(self.grid.shape, dtype=bool)
        for (i, j), tile in self._tiles.items():
            ranks.count(self.grid.rows(i), self.grid.columns(j), tile)
            counted[i, j] = True
        self._tiles.clear()
        return counted
