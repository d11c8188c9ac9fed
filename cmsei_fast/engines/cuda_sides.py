"""Packed items as the CUDA kernels take them: in chunks, sorted by length, with their Gram matrices."""

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

_MOST_ROWS = 2**16  # of items of equal length that are multiplied at a time: 256 MB at 1024 numbers per row
# Lengths that separate launches: a team's memory is sized by the longest item of its launch.
_CLASSES = (16, 32, 64, 128)


class Run(NamedTuple):
    """Items of a chunk for one launch: ``order[first : first + size]``, of at most ``longest`` rows."""

    first: int
    size: int
    longest: int


class Chunk(NamedTuple):
    """Consecutive items, their packed rows, and where their Gram matrices are among all."""

    items: slice
    rows: slice
    grams: slice
    runs: tuple[Run, ...]


class SameLength(NamedTuple):
    """X items of the same length: their indices, those of their rows (X · length) and of the numbers of their Gram
    matrices (X · length²). Slices if the items are consecutive.
    """

    items: Tensor | slice
    rows: Tensor | slice
    grams: Tensor | slice
    length: int


@dataclass(frozen=True)
class Layout:
    """How one side's items are packed and launched. Tensors are int64, on the device.

    Args:
        offsets: (items + 1,) first packed row of each item.
        gram_offsets: (items + 1,) first number of each item's Gram matrix.
        order: (items,) items by chunk, then by length: the order of launch.
        rows: packed rows of all items.
        grams: numbers in the Gram matrices of all items.
        by_length: the items in groups of equal length.
    """

    offsets: Tensor
    gram_offsets: Tensor
    order: Tensor
    chunks: tuple[Chunk, ...]
    rows: int
    grams: int
    by_length: tuple[SameLength, ...]


def _by_length(offsets: np.ndarray, gram_offsets: np.ndarray, device: str) -> Iterator[SameLength]:
    lengths = np.diff(offsets)
    for length in np.unique(lengths).tolist():
        same_length = np.flatnonzero(lengths == length)
        for batch in np.array_split(same_length, -(-len(same_length) * length // _MOST_ROWS)):
            first, last = int(batch[0]), int(batch[-1]) + 1
            if last - first == len(batch):
                rows, gram_slice = (slice(int(x[first]), int(x[last])) for x in (offsets, gram_offsets))
                yield SameLength(slice(first, last), rows, gram_slice, length)
                continue
            indices = (
                batch,
                offsets[batch, None] + np.arange(length),
                gram_offsets[batch, None] + np.arange(length * length),
            )
            item_indices, row_indices, gram_indices = (torch.from_numpy(x.reshape(-1)).to(device) for x in indices)
            yield SameLength(item_indices, row_indices, gram_indices, length)


@device_cache(32)
def _layout(offsets: bytes, limit: int, device: str) -> Layout:
    """:func:`layout`, cached because training steps and captured graphs repeat the same lengths."""
    row_offsets = np.frombuffer(offsets, dtype=np.int64)
    lengths = np.diff(row_offsets)
    gram_offsets = np.concatenate([[0], np.cumsum(lengths**2)])
    order, chunks = np.empty(len(lengths), dtype=np.int64), []
    for first, last in runs(row_offsets, limit):
        chunk_lengths = lengths[first:last]
        sorted_items = np.argsort(chunk_lengths, kind="stable")
        order[first:last] = first + sorted_items
        sorted_lengths = chunk_lengths[sorted_items]
        length_class = np.searchsorted(_CLASSES, sorted_lengths)
        run_bounds = [0, *(np.flatnonzero(np.diff(length_class)) + 1).tolist(), last - first]
        chunk_runs = [
            Run(first + begin, end - begin, int(sorted_lengths[end - 1]))
            for begin, end in itertools.pairwise(run_bounds)
        ]
        rows, gram_slice = (slice(int(x[first]), int(x[last])) for x in (row_offsets, gram_offsets))
        chunks.append(Chunk(slice(first, last), rows, gram_slice, tuple(chunk_runs)))
    offset_tensor, gram_offset_tensor, order_tensor = (
        torch.tensor(x, dtype=torch.int64, device=device) for x in (row_offsets, gram_offsets, order)
    )
    by_length = tuple(_by_length(row_offsets, gram_offsets, device))
    return Layout(
        offset_tensor,
        gram_offset_tensor,
        order_tensor,
        tuple(chunks),
        int(row_offsets[-1]),
        int(gram_offsets[-1]),
        by_length,
    )


def layout(offsets: Tensor, limit: int, device: torch.device) -> Layout:
    """The layout of items with these offsets (items + 1,) in chunks of about ``limit`` rows."""
    return _layout(offsets.numpy().tobytes(), limit, str(device))


@dataclass(frozen=True)
class Side:
    """One side's rows, rounded to the precision, and what the kernels need of them, in the accumulator's dtype."""

    layout: Layout
    rows: Tensor  # (rows, D), unit column stride
    lengths: Tensor  # (rows,)
    means: Tensor  # (items,) length of the mean row
    grams: Tensor  # (Σ n²,)


def _blocks(rows: Tensor, same_length: SameLength, dtype: torch.dtype) -> Tensor:
    """Rows (X, length, D) of items of the same length."""
    return rows[same_length.rows].to(dtype).view(-1, same_length.length, rows.shape[1])


def make_side(rows: Tensor, side_layout: Layout, precision: str) -> Side:
    """Rounds the rows (rows, D) and computes the Gram matrices, by batched products of items of the same length."""
    acc_dtype = accumulator(precision)
    rows = rows.to(PRECISIONS[precision])
    if not rows.is_cuda:  # a product on the CPU would round its result
        rows = rows.to(acc_dtype)
    if rows.stride(-1) != 1:
        rows = rows.contiguous()
    lengths, means, grams = (
        torch.empty(n, dtype=acc_dtype, device=rows.device)
        for n in (side_layout.rows, len(side_layout.order), side_layout.grams)
    )
    for same_length in side_layout.by_length:
        x = _blocks(rows, same_length, acc_dtype)
        gram = x @ x.mT  # (X, length, length)
        grams[same_length.grams] = gram.flatten()
        lengths[same_length.rows] = gram.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt().flatten()
        # Not from the sum of gram: for rows that cancel out it is nothing but rounding, and often negative.
        means[same_length.items] = torch.linalg.vector_norm(x.sum(1), dim=1) / same_length.length
    return Side(side_layout, rows, lengths, means, grams)


def add_gram_gradient(d_rows: Tensor, side: Side, d_grams: Tensor) -> None:
    """Adds the gradients that pass through the Gram matrices to d_rows (rows, D): (dG + dGᵀ) x for each item."""
    for same_length in side.layout.by_length:
        d_gram = d_grams[same_length.grams].view(-1, same_length.length, same_length.length)
        x = _blocks(side.rows, same_length, d_rows.dtype)
        d_rows[same_length.rows] += ((d_gram + d_gram.mT) @ x).flatten(0, 1)
