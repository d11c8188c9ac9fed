"""Scores of each query's candidates alone, such as the first hundred of a cheaper model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import integers
from ..packing import Block
from ..progress import Progress
from ..tiling import Part, TileStream, call_engine, overflow

# An image is gone through with its captions, a caption with its images where these are so many times more: what is
# computed of one item alone is more of an image, whose regions are more than a caption's words.
_FEWER = 4


def check_candidates(candidates: Any, query: str, shape: tuple[int, int]) -> np.ndarray:
    """Candidates (n_query, c) int64 of a problem of that shape (n_image, n_caption).

    Raises:
        TypeError: if they are not integers.
        ValueError: for another shape, an item that is not there, or one that a query has twice.
    """
    given = integers("candidates", candidates)
    n_query, n_item = shape[::-1] if query == "caption" else shape
    if given.ndim != 2 or len(given) != n_query or given.shape[1] == 0:
        raise ValueError(f"candidates: expected shape ({n_query}, c), a row for each {query}, got {given.shape}")
    wrong = np.argwhere((given < 0) | (given >= n_item))
    if len(wrong):
        i, j = wrong[0]
        raise ValueError(f"candidates[{i}, {j}]: expected an item from 0 to {n_item - 1}, got {given[i, j]}")
    ordered = np.sort(given, axis=1)
    twice = np.argwhere(ordered[:, 1:] == ordered[:, :-1])
    if len(twice):
        i, j = twice[0]
        raise ValueError(f"candidates[{i}]: expected different items, got {ordered[i, j]} twice")
    return given.astype(np.int64)


def best_candidates(
    stream: TileStream, candidates: np.ndarray, query: str, k: int, progress: bool
) -> tuple[Tensor, Tensor]:
    """(n_query, min(k, c)) of the best candidates: their indices and scores, of equal scores the lower index first."""
    items = torch.from_numpy(np.sort(candidates, axis=1))
    asks = np.repeat(np.arange(len(items)), items.shape[1])
    flat = items.flatten().numpy()
    images, captions = (flat, asks) if query == "caption" else (asks, flat)
    found = _scores(stream, images, captions, progress).view(items.shape)
    scores, order = found.sort(dim=1, descending=True, stable=True)
    k = min(k, items.shape[1])
    return items.to(scores.device).gather(1, order[:, :k]), scores[:, :k].contiguous()


@torch.no_grad()
def _scores(stream: TileStream, images: np.ndarray, captions: np.ndarray, progress: bool) -> Tensor:
    """The scores of pairs (images[p], captions[p]), in their order."""
    grid = stream.grid
    out = torch.empty(len(images), dtype=stream.dtype, device=stream.device)
    wanted = np.zeros(grid.shape, dtype=bool)
    wanted[_place(grid.image_cuts, images), _place(grid.caption_cuts, captions)] = True
    starts = [
        cuts[[first for first, _ in blocks]]
        for cuts, blocks in ((grid.image_cuts, grid.image_blocks), (grid.caption_cuts, grid.caption_blocks))
    ]
    number = _place(starts[0], images) * len(starts[1]) + _place(starts[1], captions)
    order = np.lexsort((captions, images, number))  # as the blocks come, and by image in each
    number = number[order]
    bar = Progress(len(images)) if progress else None
    try:
        for regions, words in stream.blocks(wanted):
            at = _place(starts[0], regions.first) * len(starts[1]) + _place(starts[1], words.first)
            run = order[np.searchsorted(number, at) : np.searchsorted(number, at, "right")]
            for pairs, scores in _in_blocks(stream, regions, words, images, captions, run):
                out[torch.from_numpy(pairs).to(out.device)] = scores
                if bar is not None:
                    bar.update(len(pairs))
    finally:
        if bar is not None:
            bar.close()
    return out


def _place(starts: np.ndarray, item: Any) -> Any:
    return np.searchsorted(starts, item, "right") - 1


def _in_blocks(
    stream: TileStream, regions: Block, words: Block, images: np.ndarray, captions: np.ndarray, run: np.ndarray
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Some of the pairs ``run`` and their scores, one image or one caption after the other."""
    by_image = len(np.unique(images[run])) <= _FEWER * len(np.unique(captions[run]))
    if not by_image:
        run = run[np.argsort(captions[run], kind="stable")]
    one, others = (images, captions) if by_image else (captions, images)
    for pairs in np.split(run, np.flatnonzero(np.diff(one[run])) + 1):
        item = one[pairs[:1]]
        sides = (regions, item), (words, others[pairs])
        if not by_image:
            sides = (regions, others[pairs]), (words, item)
        # The engine reads the features alone, not where they are from.
        part = Part(slice(0), slice(0), *_picked(*sides[0]), *_picked(*sides[1]))
        scores = call_engine("pair_score", stream.problem, part).flatten()
        if len(bad := (~torch.isfinite(scores)).nonzero()):
            pair = pairs[int(bad[0])]
            raise overflow(int(images[pair]), int(captions[pair]))
        yield pairs, scores


def _picked(block: Block, items: np.ndarray) -> tuple[Tensor, Tensor]:
    """Packed rows and offsets of some items of a block; a view of one."""
    first, last = (block.offsets[items - block.first + i] for i in (0, 1))
    offsets = np.zeros(len(items) + 1, dtype=np.int64)
    np.cumsum(last - first, out=offsets[1:])
    if len(items) == 1:
        return block.rows[int(first[0]) : int(last[0])], torch.from_numpy(offsets)
    rows = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], last - first)
    return block.rows.index_select(0, torch.from_numpy(rows).to(block.rows.device)), torch.from_numpy(offsets)
