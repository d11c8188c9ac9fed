"""The k best captions of every image, or images of every caption, from all or from given candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import is_whole
from ..compiling import outside_graphs
from ..distributed import Team
from ..scorer import PairScorer
from ..scoring import prepare
from ..tiling import Problem, ScoreTiles, TileStream
from .candidates import best_candidates, check_candidates
from .screen import Screen, ScreenedTile, check_screen
from .topk import TopK

QUERIES = ("caption", "image")

# Scores of the other processes that each process of a group holds at a time, when the results are merged.
MERGED_NUMBERS = 1 << 24


@dataclass(frozen=True, eq=False)
class Retrieved:
    """What :func:`retrieve` found, best first; tensors for tensors, numpy arrays for arrays and datasets.

    It cannot be unpacked, so that nobody mistakes one array for the other: ``torch.topk`` returns the scores first.

    Args:
        indices: (n_query, k) int64, the items.
        scores: (n_query, k), their scores: float64 for precision "float64", else float32.
    """

    indices: Any
    scores: Any


@outside_graphs
def retrieve(
    images: Any,
    captions: Any,
    caption_lengths: Any = None,
    image_lengths: Any = None,
    *,
    k: int = 10,
    query: str = "caption",
    candidates: Any = None,
    scorer: PairScorer | None = None,
    engine: str = "auto",
    precision: str | None = None,
    screen: str | None = None,
    progress: bool = False,
    group: Any = None,
) -> Retrieved:
    """The k items with the highest scores for each query, exactly as in the whole score matrix, to the bit.

    Features, lengths, ``scorer``, ``engine``, ``precision`` and ``progress`` are as in
    :func:`cmsei_fast.score_matrix`. No matrix is held: memory grows with the number of queries times k.

    Args:
        k: number of items for each query, at least 1; all of them if there are fewer.
        query: "caption" finds images for each caption, "image" captions for each image.
        candidates: (n_query, c) integers, the items among which each query chooses, all different, in any order: for
            example the best hundred of another model. Queries with fewer candidates are filled up with -1, or given as
            a list of rows of different lengths. Only these pairs are scored, and only their items read, so features
            that are not finite are refused only in these. With the engine ``eager``, the last bits may then differ from
            the matrix's, as they depend on which pairs share a product. None: all items.
        screen: "bfloat16": score with rounded features first, and score exactly only the pairs that this leaves
            undecided (docs/pruning.md); the result is the same to the bit. For scorers made of largest inner products,
            such as ``PairScorer.maxsim()``, in float32 or float64 on the native engine; not with ``candidates``.
        group: of torch.distributed: its processes, each with the same call, share the pairs; all get the same result
            as one process would (docs/distributed.md). None: this process alone.

    Returns:
        Retrieved, of shape (n_query, min(k, n_item)), or (n_query, min(k, c)) with c candidates; of equal scores, the
        lower index comes first. If a query has fewer candidates, the rest has index -1 and score -inf.

    Raises:
        TypeError, ValueError, MemoryError: as :func:`cmsei_fast.score_matrix` does, and for a wrong k, query, screen or
            candidates.
        ProcessLost: if another process of the group failed or is lost.
    """
    if not is_whole(k):
        raise ValueError(f"k: expected an integer >= 1, got {k!r}")
    if query not in QUERIES:
        raise ValueError(f'query: expected "caption" or "image", got {query!r}')
    problem = prepare(images, captions, caption_lengths, image_lengths, scorer, engine, precision)
    check_screen(screen, problem)
    if candidates is not None:
        if screen is not None:
            raise ValueError(f"screen: expected None beside candidates, got {screen!r}")
        checked = check_candidates(candidates, query, problem.shape)
        return _to_retrieved(problem, *best_candidates(problem, checked, query, k, progress, group))
    best = find_best(TileStream(problem), k, query, screen=screen, progress=progress, group=group)
    return _to_retrieved(problem, best.indices, best.scores)


def find_best(
    stream: ScoreTiles, k: int, query: str, *, screen: str | None = None, progress: bool = False, group: Any = None
) -> TopK:
    """The best of all items for each query, from a stream's tiles; arguments and errors are those of :func:`retrieve`.

    Args:
        stream: tiles of one problem, or of the mean of several problems, which cannot be screened.
    """
    n_image, n_caption = stream.shape
    sizes = (n_caption, n_image) if query == "caption" else (n_image, n_caption)
    best = TopK(*sizes, k, stream.dtype, stream.device)
    grid, team = stream.grid, Team(group, stream)
    team.agree(k=k, query=query, screen=screen, candidates=None)
    wanted = np.ones(grid.shape, dtype=bool)
    team.deal(wanted)

    def merge_tile(i: int, j: int, tile: Tensor) -> int:
        rows, columns = grid.rows(i), grid.columns(j)
        best.update(*((columns, rows, tile.T) if query == "caption" else (rows, columns, tile)))
        return tile.numel()

    def merge_screened_tile(i: int, j: int, tile: ScreenedTile) -> int:
        for piece in tile.pieces(query):
            merge_screened(best, query, piece)
        return tile.pairs

    bar = team.bar(progress, n_image * n_caption)
    try:
        with torch.no_grad():
            if screen is None:
                team.run(wanted, merge_tile, bar)
            else:
                assert isinstance(stream, TileStream)
                team.run(wanted, merge_screened_tile, bar, Screen(stream).tiles)
            _merge_processes(best, team)
    finally:
        if bar is not None:
            bar.close()
    return best


def _to_retrieved(problem: Problem, *tensors: Tensor) -> Retrieved:
    """Indices and scores as tensors if the features are tensors, else as numpy arrays."""
    return Retrieved(*(tensors if isinstance(problem.images.data, Tensor) else (x.numpy() for x in tensors)))


def merge_screened(best: TopK, query: str, tile: ScreenedTile) -> None:
    """Merges those pairs of a tile into ``best`` that may be among a query's k best."""
    by_caption = query == "caption"
    queries, items = (tile.columns, tile.rows) if by_caption else (tile.rows, tile.columns)

    def undecided(scores: Tensor, margin: Tensor) -> Tensor:
        if by_caption:
            scores, margin = scores.T, margin.T
        lowest = best.floor(queries, scores - margin)[:, None]
        mask = ~(lowest - scores > margin)
        return mask.T if by_caption else mask

    scores, wanted = tile.resolve(undecided)
    if wanted is None:
        best.update(queries, items, scores.T if by_caption else scores)
        return
    scores.masked_fill_(~wanted, -torch.inf)  # these cannot be among the k best
    if by_caption:
        scores, wanted = scores.T, wanted.T
    most = int(wanted.sum(1).max())
    if most:
        best_scores, order = scores.topk(most, dim=1)
        best.merge(queries, best_scores, order + items.start)


def _merge_processes(best: TopK, team: Team) -> None:
    """Merges the other processes' results into ``best``, some queries at a time."""
    if team.alone:
        return
    step = max(1, MERGED_NUMBERS // max(1, best.k * team.size))
    for first in range(0, len(best.scores), step):
        queries = slice(first, first + step)
        parts = zip(team.gather(best.scores[queries]), team.gather(best.indices[queries]), strict=True)
        for rank, (scores, indices) in enumerate(parts):
            if rank != team.rank:
                best.merge(queries, scores, indices)
