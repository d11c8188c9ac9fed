"""Scores of each query's candidates alone, such as the first hundred of a cheaper model."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import integers
from ..data.split import offsets_from_counts
from ..distributed import Team, dealt
from ..packing import Block, some_items
from ..tiling import Part, Problem, TileStream, call_engine, overflow

# An image is gone through with its captions, a caption with its images where these are so many times more: what is
# computed of one item alone is more of an image, whose regions are more than a caption's words.
_FEWER = 4

# In the place of a candidate that a query does not have.
_NONE = -1

# Calls of the engine between two meetings of the processes of a group.
_CALLS_A_ROUND = 256


def check_candidates(candidates: Any, query: str, shape: tuple[int, int]) -> np.ndarray:
    """Candidates (n_query, c) int64 of a problem of that shape (n_image, n_caption), -1 where a query has fewer.

    Raises:
        TypeError: if they are not integers.
        ValueError: for another shape, an item that is not there, or one that a query has twice.
    """
    given = _rectangle(candidates)
    n_query, n_item = shape[::-1] if query == "caption" else shape
    if given.ndim != 2 or len(given) != n_query or given.shape[1] == 0:
        way = "; c is at least 1, and -1 is none" if given.shape == (n_query, 0) else ""
        raise ValueError(f"candidates: expected shape ({n_query}, c), a row for each {query}, got {given.shape}{way}")
    wrong = np.argwhere((given < _NONE) | (given >= n_item))
    if len(wrong):
        i, j = wrong[0]
        wanted = f"an item from 0 to {n_item - 1}, or -1 for none"
        raise ValueError(f"candidates[{i}, {j}]: expected {wanted}, got {given[i, j]}")
    ordered = np.sort(given, axis=1)
    twice = np.argwhere((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != _NONE))
    if len(twice):
        i, j = twice[0]
        raise ValueError(f"candidates[{i}]: expected different items, got {ordered[i, j]} twice")
    return given.astype(np.int64)


def _rectangle(candidates: Any) -> np.ndarray:
    """Candidates as an array; rows of unequal lengths have -1 behind them."""
    if not isinstance(candidates, (list, tuple)) or len({np.shape(row) for row in candidates}) < 2:
        return integers("candidates", candidates)
    rows = [integers(f"candidates[{i}]", row) for i, row in enumerate(candidates)]
    for i, row in enumerate(rows):
        if row.ndim != 1:
            raise ValueError(f"candidates[{i}]: expected one row of items, got shape {row.shape}")
    out = np.full((len(rows), max(map(len, rows))), _NONE)
    for to, row in zip(out, rows, strict=True):
        to[: len(row)] = row
    return out


def best_candidates(
    problem: Problem, candidates: np.ndarray, query: str, k: int, progress: bool, group: Any = None
) -> tuple[Tensor, Tensor]:
    """(n_query, min(k, c)) of the best candidates: their indices and scores, of equal scores the lower index first.

    Where a query has fewer, the index is -1 and the score -inf. Items that are nobody's candidates are not read.
    """
    ordered = np.sort(candidates, axis=1)
    given = ordered != _NONE
    asked = np.unique(ordered[given])
    if query == "caption":
        problem = replace(problem, images=some_items(problem.images, asked))
    else:
        problem = replace(problem, captions=some_items(problem.captions, asked))
    stream = TileStream(problem)
    team = Team(group, stream)
    team.agree(k=k, query=query, screen=None, candidates=zlib.crc32(ordered.tobytes()))
    items = torch.from_numpy(ordered)
    asks = np.nonzero(given)[0]
    flat = np.searchsorted(asked, ordered[given])
    images, captions = (flat, asks) if query == "caption" else (asks, flat)
    found = _scores(stream, images, captions, progress, team)
    scores = found.new_full(items.shape, -torch.inf).masked_scatter_(torch.from_numpy(given).to(found.device), found)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    k = min(k, items.shape[1])
    return items.to(scores.device).gather(1, order[:, :k]), scores[:, :k].contiguous()


@dataclass(frozen=True)
class _Calls:
    """The engine's calls: each of one image with some captions, or of one caption with some images, of two blocks.

    They are the same whichever process makes them, so that a pair's score has the same bits.

    Args:
        pairs: (P,) the pairs, call after call, and the calls in the order of their blocks.
        cuts: (C + 1,) pairs before each call.
        blocks: (C,) number of the blocks of images and captions.
        by_image: (C,) whether there is one image.
    """

    pairs: np.ndarray
    cuts: np.ndarray
    blocks: np.ndarray
    by_image: np.ndarray

    def of(self, call: int) -> np.ndarray:
        """Its pairs."""
        return self.pairs[self.cuts[call] : self.cuts[call + 1]]


def _calls(images: np.ndarray, captions: np.ndarray, number: np.ndarray) -> _Calls:
    """The calls for pairs (images[p], captions[p]) of the blocks number[p]."""
    order = np.lexsort((captions, images, number))  # as the blocks come, and by image in each
    pairs, sizes, blocks, by_image = [order[:0]], [], [], []
    for run in np.split(order, np.flatnonzero(np.diff(number[order])) + 1) if len(order) else []:
        image = len(np.unique(images[run])) <= _FEWER * len(np.unique(captions[run]))
        if not image:
            run = run[np.argsort(captions[run], kind="stable")]
        one = (images if image else captions)[run]
        ends = np.append(np.flatnonzero(np.diff(one)) + 1, len(run))
        pairs.append(run)
        sizes.append(np.diff(ends, prepend=0))
        blocks.append(np.full(len(ends), number[run[0]]))
        by_image.append(np.full(len(ends), image))
    return _Calls(
        np.concatenate(pairs),
        np.concatenate([np.zeros(1, dtype=np.int64), *sizes]).cumsum(),
        np.concatenate([np.zeros(0, dtype=np.int64), *blocks]),
        np.concatenate([np.zeros(0, dtype=bool), *by_image]),
    )


@torch.no_grad()
def _scores(stream: TileStream, images: np.ndarray, captions: np.ndarray, progress: bool, team: Team) -> Tensor:
    """The scores of pairs (images[p], captions[p]), in their order."""
    grid = stream.grid
    starts = [
        cuts[[first for first, _ in blocks]]
        for cuts, blocks in ((grid.image_cuts, grid.image_blocks), (grid.caption_cuts, grid.caption_blocks))
    ]
    calls = _calls(images, captions, _place(starts[0], images) * len(starts[1]) + _place(starts[1], captions))
    work = _work(stream, images, captions, calls)
    first, last = np.searchsorted(dealt(work, team.size), [team.rank, team.rank + 1])
    mine = calls.pairs[calls.cuts[first] : calls.cuts[last]]
    wanted = np.zeros(grid.shape, dtype=bool)
    wanted[_place(grid.image_cuts, images[mine]), _place(grid.caption_cuts, captions[mine])] = True
    out = torch.zeros(len(images), dtype=stream.dtype, device=stream.device)

    def steps() -> Iterator[int]:
        for regions, words in stream.blocks(wanted):
            at = _place(starts[0], regions.first) * len(starts[1]) + _place(starts[1], words.first)
            own = np.searchsorted(calls.blocks, [at, at + 1])
            for call in range(max(first, own[0]), min(last, own[1])):
                pairs = calls.of(call)
                scores = _call(stream, regions, words, images[pairs], captions[pairs], calls.by_image[call])
                out[torch.from_numpy(pairs).to(out.device)] = scores
                yield len(pairs)

    bar = team.bar(progress, len(images))
    try:
        team.go_through(int(last - first), _CALLS_A_ROUND, steps(), bar)
        team.sum_(out.view(torch.int64 if out.dtype == torch.float64 else torch.int32))  # as bits: -0.0 + 0.0 is 0.0
    finally:
        if bar is not None:
            bar.close()
    return out


def _work(stream: TileStream, images: np.ndarray, captions: np.ndarray, calls: _Calls) -> np.ndarray:
    """(C,) inner products that each call takes: regions with words, and rows of each of its items with each other."""
    n, m = (
        np.diff(side.row_offsets)[items[calls.pairs]].astype(np.float64)
        for side, items in ((stream.problem.images, images), (stream.problem.captions, captions))
    )
    by_image = np.repeat(calls.by_image, np.diff(calls.cuts))
    one, others = np.where(by_image, n, m), np.where(by_image, m, n)
    first = calls.cuts[:-1]
    out: np.ndarray = np.add.reduceat(n * m + others**2, first) + one[first] ** 2 if len(first) else np.zeros(0)
    return out


def _place(starts: np.ndarray, item: Any) -> Any:
    return np.searchsorted(starts, item, "right") - 1


def _call(
    stream: TileStream, regions: Block, words: Block, images: np.ndarray, captions: np.ndarray, by_image: bool
) -> Tensor:
    """Scores of one image with some captions, or of some images with one caption."""
    sides = (regions, images[:1] if by_image else images), (words, captions if by_image else captions[:1])
    # The engine reads the features alone, not where they are from.
    part = Part(slice(0), slice(0), *_picked(*sides[0]), *_picked(*sides[1]))
    scores = call_engine("pair_score", stream.problem, part).flatten()
    if len(bad := (~torch.isfinite(scores)).nonzero()):
        pair = int(bad[0])
        raise overflow(stream.problem, int(images[pair]), int(captions[pair]))
    return scores


def _picked(block: Block, items: np.ndarray) -> tuple[Tensor, Tensor]:
    """Packed rows and offsets of some items of a block; a view of one."""
    first, last = (block.offsets[items - block.first + i] for i in (0, 1))
    offsets = offsets_from_counts(last - first)
    if len(items) == 1:
        return block.rows[int(first[0]) : int(last[0])], torch.from_numpy(offsets)
    rows = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], last - first)
    return block.rows.index_select(0, torch.from_numpy(rows).to(block.rows.device)), torch.from_numpy(offsets)
