"""Scores only each query's candidates, such as the best hundred by a cheaper model."""

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

# A call takes one image and its captions, or, in a block with more images per caption than this, one caption and its
# images. What is computed once for an item takes longer for an image, which has more regions than a caption has words.
_IMAGES_PER_CAPTION = 4

# Stands for a candidate in the rows of queries that have fewer than the others.
_MISSING = -1

# Calls of the engine between two exchanges of messages between the processes of a group.
_CALLS_A_ROUND = 256


def check_candidates(candidates: Any, query: str, shape: tuple[int, int]) -> np.ndarray:
    """Checks the candidates for a problem of shape (n_image, n_caption).

    Returns:
        (n_query, c) int64, -1 where a query has fewer than c candidates.

    Raises:
        TypeError: if they are not integers.
        ValueError: for another shape, an item that does not exist, or one that a query has twice.
    """
    array = _pad_rows(candidates)
    n_query, n_item = shape[::-1] if query == "caption" else shape
    if array.ndim != 2 or len(array) != n_query or array.shape[1] == 0:
        hint = "; c is at least 1, and -1 is none" if array.shape == (n_query, 0) else ""
        raise ValueError(f"candidates: expected shape ({n_query}, c), a row for each {query}, got {array.shape}{hint}")
    wrong = np.argwhere((array < _MISSING) | (array >= n_item))
    if len(wrong):
        i, j = wrong[0]
        expected = f"an item from 0 to {n_item - 1}, or -1 for none"
        raise ValueError(f"candidates[{i}, {j}]: expected {expected}, got {array[i, j]}")
    sorted_rows = np.sort(array, axis=1)
    duplicates = np.argwhere((sorted_rows[:, 1:] == sorted_rows[:, :-1]) & (sorted_rows[:, 1:] != _MISSING))
    if len(duplicates):
        i, j = duplicates[0]
        raise ValueError(f"candidates[{i}]: expected different items, got {sorted_rows[i, j]} twice")
    return array.astype(np.int64)


def _pad_rows(candidates: Any) -> np.ndarray:
    """Candidates as an array; shorter rows are filled up with -1."""
    if not isinstance(candidates, (list, tuple)) or len({np.shape(row) for row in candidates}) < 2:
        return integers("candidates", candidates)
    rows = [integers(f"candidates[{i}]", row) for i, row in enumerate(candidates)]
    for i, row in enumerate(rows):
        if row.ndim != 1:
            raise ValueError(f"candidates[{i}]: expected one row of items, got shape {row.shape}")
    out = np.full((len(rows), max(map(len, rows))), _MISSING)
    for target, row in zip(out, rows, strict=True):
        target[: len(row)] = row
    return out


def best_candidates(
    problem: Problem, candidates: np.ndarray, query: str, k: int, progress: bool, group: Any = None
) -> tuple[Tensor, Tensor]:
    """Indices and scores (n_query, min(k, c)) of the best candidates; of equal scores, the lower index comes first.

    Where a query has fewer, the index is -1 and the score -inf. Items that no query has as a candidate are not read.
    """
    sorted_rows = np.sort(candidates, axis=1)
    present = sorted_rows != _MISSING
    used_items = np.unique(sorted_rows[present])
    if query == "caption":
        problem = replace(problem, images=some_items(problem.images, used_items))
    else:
        problem = replace(problem, captions=some_items(problem.captions, used_items))
    stream = TileStream(problem)
    team = Team(group, stream)
    team.agree(k=k, query=query, screen=None, candidates=zlib.crc32(sorted_rows.tobytes()))
    items = torch.from_numpy(sorted_rows)
    queries = np.nonzero(present)[0]
    item_positions = np.searchsorted(used_items, sorted_rows[present])
    images, captions = (item_positions, queries) if query == "caption" else (queries, item_positions)
    pair_scores = _score_pairs(stream, images, captions, progress, team)
    scores = pair_scores.new_full(items.shape, -torch.inf).masked_scatter_(
        torch.from_numpy(present).to(pair_scores.device), pair_scores
    )
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    k = min(k, items.shape[1])
    return items.to(scores.device).gather(1, order[:, :k]), scores[:, :k].contiguous()


@dataclass(frozen=True)
class _EngineCalls:
    """The engine's calls. Each scores one image with some captions, or one caption with some images.

    All pairs of a call lie in one block of images and one block of captions. The calls do not depend on the number of
    processes, so that a pair's score has the same bits whichever process makes the call.

    Args:
        pairs: (P,) indices of pairs, call after call, and the calls in the order of their blocks.
        cuts: (C + 1,) number of pairs before each call, and of all pairs.
        blocks: (C,) the number of each call's two blocks: of its images' block times how many blocks captions have,
            plus that of its captions' block.
        by_image: (C,) whether the call takes one image with some captions.
    """

    pairs: np.ndarray
    cuts: np.ndarray
    blocks: np.ndarray
    by_image: np.ndarray

    def pairs_in(self, call: int) -> np.ndarray:
        """Indices of the call's pairs."""
        return self.pairs[self.cuts[call] : self.cuts[call + 1]]


def _plan_calls(images: np.ndarray, captions: np.ndarray, block_numbers: np.ndarray) -> _EngineCalls:
    """The calls that score the pairs (images[p], captions[p]), each in the two blocks of number block_numbers[p]."""
    order = np.lexsort((captions, images, block_numbers))  # by block, and by image within a block
    pairs, sizes, blocks, by_image = [order[:0]], [], [], []
    for block_pairs in np.split(order, np.flatnonzero(np.diff(block_numbers[order])) + 1) if len(order) else []:
        one_image = len(np.unique(images[block_pairs])) <= _IMAGES_PER_CAPTION * len(np.unique(captions[block_pairs]))
        if not one_image:
            block_pairs = block_pairs[np.argsort(captions[block_pairs], kind="stable")]
        fixed_items = (images if one_image else captions)[block_pairs]
        ends = np.append(np.flatnonzero(np.diff(fixed_items)) + 1, len(block_pairs))
        pairs.append(block_pairs)
        sizes.append(np.diff(ends, prepend=0))
        blocks.append(np.full(len(ends), block_numbers[block_pairs[0]]))
        by_image.append(np.full(len(ends), one_image))
    return _EngineCalls(
        np.concatenate(pairs),
        np.concatenate([np.zeros(1, dtype=np.int64), *sizes]).cumsum(),
        np.concatenate([np.zeros(0, dtype=np.int64), *blocks]),
        np.concatenate([np.zeros(0, dtype=bool), *by_image]),
    )


@torch.no_grad()
def _score_pairs(stream: TileStream, images: np.ndarray, captions: np.ndarray, progress: bool, team: Team) -> Tensor:
    """(P,) scores of the pairs (images[p], captions[p])."""
    grid = stream.grid
    block_starts = [
        cuts[[first for first, _ in blocks]]
        for cuts, blocks in ((grid.image_cuts, grid.image_blocks), (grid.caption_cuts, grid.caption_blocks))
    ]
    calls = _plan_calls(
        images,
        captions,
        _locate(block_starts[0], images) * len(block_starts[1]) + _locate(block_starts[1], captions),
    )
    costs = _call_costs(stream, images, captions, calls)
    first, last = np.searchsorted(dealt(costs, team.size), [team.rank, team.rank + 1])
    own_pairs = calls.pairs[calls.cuts[first] : calls.cuts[last]]
    wanted = np.zeros(grid.shape, dtype=bool)
    wanted[_locate(grid.image_cuts, images[own_pairs]), _locate(grid.caption_cuts, captions[own_pairs])] = True
    out = torch.zeros(len(images), dtype=stream.dtype, device=stream.device)

    def steps() -> Iterator[int]:
        for regions, words in stream.blocks(wanted):
            block_number = _locate(block_starts[0], regions.first) * len(block_starts[1]) + _locate(
                block_starts[1], words.first
            )
            block_calls = np.searchsorted(calls.blocks, [block_number, block_number + 1])
            for call in range(max(first, block_calls[0]), min(last, block_calls[1])):
                pairs = calls.pairs_in(call)
                scores = _score_call(stream, regions, words, images[pairs], captions[pairs], calls.by_image[call])
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


def _call_costs(stream: TileStream, images: np.ndarray, captions: np.ndarray, calls: _EngineCalls) -> np.ndarray:
    """(C,) inner products that each call takes: of regions with words, and of the rows of each item with each other."""
    n_regions, n_words = (
        np.diff(side.row_offsets)[items[calls.pairs]].astype(np.float64)
        for side, items in ((stream.problem.images, images), (stream.problem.captions, captions))
    )
    by_image = np.repeat(calls.by_image, np.diff(calls.cuts))
    fixed, varying = np.where(by_image, n_regions, n_words), np.where(by_image, n_words, n_regions)
    first = calls.cuts[:-1]
    out: np.ndarray = (
        np.add.reduceat(n_regions * n_words + varying**2, first) + fixed[first] ** 2 if len(first) else np.zeros(0)
    )
    return out


def _locate(starts: np.ndarray, item: Any) -> Any:
    """The index of the interval that an item, or each item of an array, lies in, from the starts of the intervals."""
    return np.searchsorted(starts, item, "right") - 1


def _score_call(
    stream: TileStream, regions: Block, words: Block, images: np.ndarray, captions: np.ndarray, by_image: bool
) -> Tensor:
    """Scores of one image with some captions, or of some images with one caption."""
    sides = (regions, images[:1] if by_image else images), (words, captions if by_image else captions[:1])
    # The engine reads only the features, not the places of the images and captions.
    part = Part(slice(0), slice(0), *_pick_items(*sides[0]), *_pick_items(*sides[1]))
    scores = call_engine("pair_score", stream.problem, part).flatten()
    if len(bad := (~torch.isfinite(scores)).nonzero()):
        pair = int(bad[0])
        raise overflow(stream.problem, int(images[pair]), int(captions[pair]))
    return scores


def _pick_items(block: Block, items: np.ndarray) -> tuple[Tensor, Tensor]:
    """Packed rows and offsets of some items of a block; the rows of a single item are a view."""
    starts, ends = (block.offsets[items - block.first + i] for i in (0, 1))
    offsets = offsets_from_counts(ends - starts)
    if len(items) == 1:
        return block.rows[int(starts[0]) : int(ends[0])], torch.from_numpy(offsets)
    rows = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], ends - starts)
    return block.rows.index_select(0, torch.from_numpy(rows).to(block.rows.device)), torch.from_numpy(offsets)
