"""Packed items as the Triton kernels take them: in chunks, sorted by padded length, with their Gram matrices."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cmsei_fast.engines.device_cache import device_cache
from cmsei_fast.engines.terms import PRECISIONS, accumulator
from cmsei_fast.packing import runs

# Rows of the largest item that a kernel takes. A tile of 64 by 64 and its Gram matrices, in float32 in two parts each,
# fit the shared memory of an A100; one of 128 by 128 does not even fit that of a Hopper GPU.
MAX_ROWS = 64
SMALLEST_BLOCK = 16  # the least that a product on the tensor cores takes


class Run(NamedTuple):
    """Items of a chunk that are padded to the same ``block`` rows: ``order[first : first + size]``."""

    block: int
    first: int
    size: int
    gram_start: int  # where their Gram matrices begin


class Chunk(NamedTuple):
    """Consecutive items, their packed rows, and where their Gram matrices are among all."""

    items: slice
    rows: slice
    grams: slice
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Layout:
    """How one side's items are packed and launched. Tensors are int64, on the device.

    Args:
        offsets: (items + 1,) first packed row of each item.
        order: (items,) items by chunk, then by padded length: the order of launch.
        host_order: the same on the host.
        rows: packed rows of all items.
        grams: numbers in the Gram matrices of all items.
    """

    offsets: Tensor
    order: Tensor
    host_order: np.ndarray
    chunks: tuple[Chunk, ...]
    rows: int
    grams: int


@device_cache(32)
def _layout(offsets: bytes, limit: int, device: str) -> Layout:
    """:func:`layout`, cached because training steps and captured graphs repeat the same lengths."""
    bounds = np.frombuffer(offsets, dtype=np.int64)
    lengths = np.diff(bounds)
    blocks = np.maximum(SMALLEST_BLOCK, 2 ** np.ceil(np.log2(lengths)).astype(np.int64))
    order, chunks, gram_start = np.empty(len(lengths), dtype=np.int64), [], 0
    for first, last in runs(bounds, limit):
        chunk_blocks = blocks[first:last]
        sorted_items = np.argsort(chunk_blocks, kind="stable")
        order[first:last] = first + sorted_items
        run_bounds = [0, *(np.flatnonzero(np.diff(chunk_blocks[sorted_items])) + 1).tolist(), last - first]
        chunk_runs, chunk_gram_start = [], gram_start
        for begin, end in itertools.pairwise(run_bounds):
            chunk_runs.append(Run(int(chunk_blocks[sorted_items[begin]]), first + begin, end - begin, gram_start))
            gram_start += (end - begin) * chunk_runs[-1].block ** 2
        rows = slice(int(bounds[first]), int(bounds[last]))
        chunks.append(Chunk(slice(first, last), rows, slice(chunk_gram_start, gram_start), tuple(chunk_runs)))
    offset_tensor, order_tensor = (torch.from_numpy(np.array(x, dtype=np.int64)).to(device) for x in (bounds, order))
    return Layout(offset_tensor, order_tensor, order, tuple(chunks), int(bounds[-1]), gram_start)


def layout(offsets: Tensor, limit: int, device: torch.device) -> Layout:
    """The layout of items of at most ``MAX_ROWS`` rows with offsets (items + 1,), in chunks of about ``limit`` rows."""
    return _layout(offsets.numpy().tobytes(), limit, str(device))


@dataclass(frozen=True)
class Side:
    """One side's rows, rounded to the precision, and what the kernels need of them, in the accumulator's dtype."""

    layout: Layout
    rows: Tensor  # (rows, D), unit column stride
    lengths: Tensor  # (rows,)
    means: Tensor  # (items,) length of the mean row
    grams: Tensor  # (Σ block²,)

    @property
    def arguments(self) -> tuple[Tensor, ...]:
        """The four arrays in the kernels' order."""
        return self.layout.offsets, self.lengths, self.means, self.grams


def make_side(rows: Tensor, side_layout: Layout, precision: str) -> Side:
    """Rounds the rows (rows, D) and computes their Gram matrices."""
    from cmsei_fast.kernels.gram import item_grams

    acc_dtype = accumulator(precision)
    rows = rows.to(PRECISIONS[precision])
    if not rows.is_cuda:  # the interpreter: NumPy has no bfloat16, and a product on the CPU would round its result
        rows = rows.to(acc_dtype)
    if rows.stride(-1) != 1 or rows.stride(0) >= 2**32:  # the kernels take strides of 32 bits
        rows = rows.contiguous()
    lengths, means, grams = (
        torch.empty(n, dtype=acc_dtype, device=rows.device)
        for n in (side_layout.rows, len(side_layout.order), side_layout.grams)
    )
    for chunk in side_layout.chunks:
        for run in chunk.runs:
            item_grams[(run.size,)](
                rows,
                rows.stride(0),
                rows.shape[1],
                side_layout.order,
                run.first,
                side_layout.offsets,
                lengths,
                means,
                grams,
                run.gram_start,
                B=run.block,
                BD=width_block(rows.shape[1], run.block),
                ACC_TYPE=kernel_dtype(acc_dtype),
                PRECISION=product_precision(precision, exact=True),
                num_warps=4 if run.block < 128 else 8,
            )
    return Side(side_layout, rows, lengths, means, grams)


def width_block(width: int, block: int) -> int:
    """Feature columns that a Gram kernel loads at a time."""
    return min(max(16, 1 << (width - 1).bit_length()), 64 if block < 128 else 32)


def kernel_dtype(dtype: torch.dtype) -> object:
    """Triton's dtype for a torch dtype of accumulators."""
    import triton.language as tl

    return tl.float64 if dtype == torch.float64 else tl.float32


def product_precision(precision: str, exact: bool = False) -> str:
    """How the kernels multiply float32 operands.

    "tf32x3" for float32 features or if ``exact``: three products, about float32's own error. Otherwise "tf32": one
    product of operands rounded by 2⁻¹¹, because 16-bit features are rounded themselves. "ieee" for float64.
    """
    if precision == "float64":
        return "ieee"
    return "tf32x3" if exact or precision == "float32" else "tf32"
