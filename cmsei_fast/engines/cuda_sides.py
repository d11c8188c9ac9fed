"""Packed items as the CUDA kernels take them: cut into chunks, ordered by length, with their Gram matrices."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cmsei_fast.engines.device_cache import device_cache
from cmsei_fast.engines.terms import PRECISIONS, accumulator
from cmsei_fast.packing import runs

_MOST_ROWS = 2**16  # of items of one length that are multiplied at a time: 256 MB of 1024 numbers
_CLASSES = (16, 32, 64, 128)  # a team's memory is sized by the longest item of a launch: items of like length share one


class Run(NamedTuple):
    """Items of a chunk for one launch: ``order[first : first + size]``, of at most ``longest`` rows."""

    first: int
    size: int
    longest: int


class Chunk(NamedTuple):
    """Consecutive items, their packed rows and where their Gram matrices lie among all."""

    items: slice
    rows: slice
    grams: slice
    runs: tuple[Run, ...]


class Alike(NamedTuple):
    """X items of one length n: which, places of their rows (X n) and of their Gram matrices (X n n).

    Slices where they lie one behind another.
    """

    items: Tensor | slice
    rows: Tensor | slice
    grams: Tensor | slice
    n: int


@dataclass(frozen=True)
class Layout:
    """Where everything of one side lies. Tensors are on the device, int64.

    Args:
        offsets: (items + 1,) first packed row of each item.
        gram_offsets: (items + 1,) first number of each item's Gram matrix.
        order: (items,) by chunk, then by length.
        rows, grams: rows, and numbers of Gram matrices, of all items.
        alike: the items by length.
    """

    offsets: Tensor
    gram_offsets: Tensor
    order: Tensor
    chunks: tuple[Chunk, ...]
    rows: int
    grams: int
    alike: tuple[Alike, ...]


def _alike(bounds: np.ndarray, grams: np.ndarray, device: str) -> Iterator[Alike]:
    lengths = np.diff(bounds)
    for n in np.unique(lengths).tolist():
        everyone = np.flatnonzero(lengths == n)
        for own in np.array_split(everyone, -(-len(everyone) * n // _MOST_ROWS)):
            first, last = int(own[0]), int(own[-1]) + 1
            if last - first == len(own):
                rows, squares = (slice(int(x[first]), int(x[last])) for x in (bounds, grams))
                yield Alike(slice(first, last), rows, squares, n)
                continue
            places = own, bounds[own, None] + np.arange(n), grams[own, None] + np.arange(n * n)
            items, where, at = (torch.from_numpy(x.reshape(-1)).to(device) for x in places)
            yield Alike(items, where, at, n)


@device_cache(32)
def _layout(offsets: bytes, limit: int, device: str) -> Layout:
    """Cached, because a training step or a captured graph comes with the same lengths again."""
    bounds = np.frombuffer(offsets, dtype=np.int64)
    lengths = np.diff(bounds)
    grams = np.concatenate([[0], np.cumsum(lengths**2)])
    order, chunks = np.empty(len(lengths), dtype=np.int64), []
    for first, last in runs(bounds, limit):
        own = lengths[first:last]
        place = np.argsort(own, kind="stable")
        order[first:last] = first + place
        ordered = own[place]
        kind = np.searchsorted(_CLASSES, ordered)
        cuts = [0, *(np.flatnonzero(np.diff(kind)) + 1).tolist(), last - first]
        found = [Run(first + a, b - a, int(ordered[b - 1])) for a, b in itertools.pairwise(cuts)]
        rows, squares = (slice(int(x[first]), int(x[last])) for x in (bounds, grams))
        chunks.append(Chunk(slice(first, last), rows, squares, tuple(found)))
    where, squares_at, places = (torch.tensor(x, dtype=torch.int64, device=device) for x in (bounds, grams, order))
    alike = tuple(_alike(bounds, grams, device))
    return Layout(where, squares_at, places, tuple(chunks), int(bounds[-1]), int(grams[-1]), alike)


def layout(offsets: Tensor, limit: int, device: torch.device) -> Layout:
    """The layout of items with these offsets (items + 1,) in chunks of about ``limit`` rows."""
    return _layout(offsets.numpy().tobytes(), limit, str(device))


@dataclass(frozen=True)
class Side:
    """One side's rows (rounded) and what the kernels ask of it; numbers in the accumulator's dtype."""

    layout: Layout
    rows: Tensor  # (rows, D), unit column stride
    lengths: Tensor  # (rows,)
    means: Tensor  # (items,) length of the mean row
    grams: Tensor  # (Σ n²,)


def _blocks(rows: Tensor, alike: Alike, dtype: torch.dtype) -> Tensor:
    """(X, n, D) rows of items of one length."""
    return rows[alike.rows].to(dtype).view(-1, alike.n, rows.shape[1])


def make_side(rows: Tensor, where: Layout, precision: str) -> Side:
    """Rounds the rows (rows, D) and computes their Gram matrices, by a library's products of items of one length."""
    wide = accumulator(precision)
    rows = rows.to(PRECISIONS[precision])
    if not rows.is_cuda:  # a CPU's product would round its output
        rows = rows.to(wide)
    if rows.stride(-1) != 1:
        rows = rows.contiguous()
    lengths, means, grams = (
        torch.empty(n, dtype=wide, device=rows.device) for n in (where.rows, len(where.order), where.grams)
    )
    for alike in where.alike:
        x = _blocks(rows, alike, wide)
        gram = x @ x.mT  # (X, n, n)
        grams[alike.grams] = gram.flatten()
        lengths[alike.rows] = gram.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt().flatten()
        # Not of the sum of gram, which is rounding alone for rows that cancel out, and often below 0.
        means[alike.items] = torch.linalg.vector_norm(x.sum(1), dim=1) / alike.n
    return Side(where, rows, lengths, means, grams)


def add_gram_gradient(d_rows: Tensor, side: Side, d_grams: Tensor) -> None:
    """Adds to d_rows (rows, D) what comes back through the Gram matrices: (dG + dGᵀ) x for each item."""
    for alike in side.layout.alike:
        gram = d_grams[alike.grams].view(-1, alike.n, alike.n)
        x = _blocks(side.rows, alike, d_rows.dtype)
        d_rows[alike.rows] += ((gram + gram.mT) @ x).flatten(0, 1)
