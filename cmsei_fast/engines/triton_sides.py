"""Packed items as the Triton kernels take them: cut into chunks, sorted by padded length, with their Gram matrices."""

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

# Rows of the largest item that a kernel takes: a tile of 64 by 64 and its Gram matrices, held in two parts each in
# float32, fit the shared memory of an A100; of 128 by 128 not even a Hopper GPU's.
MAX_ROWS = 64
SMALLEST_BLOCK = 16  # the least that a product on the tensor cores takes


class Run(NamedTuple):
    """Items of a chunk that are padded alike: ``order[first : first + size]``."""

    block: int
    first: int
    size: int
    gram: int  # where their Gram matrices begin


class Chunk(NamedTuple):
    """Consecutive items, their packed rows and where their Gram matrices lie among all."""

    items: slice
    rows: slice
    grams: slice
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Layout:
    """Where everything of one side lies. Tensors are on the device, int64.

    Args:
        offsets: (items + 1,) first packed row of each item.
        order: (items,) by chunk, then by padded length; places the same on the host.
    """

    offsets: Tensor
    order: Tensor
    places: np.ndarray
    chunks: tuple[Chunk, ...]
    rows: int
    grams: int


@device_cache(32)
def _layout(offsets: bytes, limit: int, device: str) -> Layout:
    """Cached, because a training step or a captured graph comes with the same lengths again."""
    bounds = np.frombuffer(offsets, dtype=np.int64)
    lengths = np.diff(bounds)
    blocks = np.maximum(SMALLEST_BLOCK, 2 ** np.ceil(np.log2(lengths)).astype(np.int64))
    order, chunks, gram = np.empty(len(lengths), dtype=np.int64), [], 0
    for first, last in runs(bounds, limit):
        own = blocks[first:last]
        place = np.argsort(own, kind="stable")
        order[first:last] = first + place
        cuts = [0, *(np.flatnonzero(np.diff(own[place])) + 1).tolist(), last - first]
        found, start = [], gram
        for a, b in itertools.pairwise(cuts):
            found.append(Run(int(own[place[a]]), first + a, b - a, gram))
            gram += (b - a) * found[-1].block ** 2
        rows = slice(int(bounds[first]), int(bounds[last]))
        chunks.append(Chunk(slice(first, last), rows, slice(start, gram), tuple(found)))
    where, items = (torch.from_numpy(np.array(x, dtype=np.int64)).to(device) for x in (bounds, order))
    return Layout(where, items, order, tuple(chunks), int(bounds[-1]), gram)


def layout(offsets: Tensor, limit: int, device: torch.device) -> Layout:
    """The layout of items with offsets (items + 1,), at most ``MAX_ROWS`` rows each, in chunks of about ``limit``."""
    return _layout(offsets.numpy().tobytes(), limit, str(device))


@dataclass(frozen=True)
class Side:
    """One side's rows (rounded) and what the kernels ask of it; numbers in the accumulator's dtype."""

    layout: Layout
    rows: Tensor  # (rows, D), unit column stride
    lengths: Tensor  # (rows,)
    means: Tensor  # (items,) length of the mean row
    grams: Tensor  # (Σ block²,)

    @property
    def arguments(self) -> tuple[Tensor, ...]:
        """The four arrays in the kernels' order."""
        return self.layout.offsets, self.lengths, self.means, self.grams


def make_side(rows: Tensor, where: Layout, precision: str) -> Side:
    """Rounds the rows (rows, D) and computes their Gram matrices."""
    from cmsei_fast.kernels.gram import item_grams

    wide = accumulator(precision)
    rows = rows.to(PRECISIONS[precision])
    if not rows.is_cuda:  # the interpreter: NumPy has no bfloat16, and a CPU's product would round its output
        rows = rows.to(wide)
    if rows.stride(-1) != 1 or rows.stride(0) >= 2**32:  # the kernels' stride is of 32 bits
        rows = rows.contiguous()
    lengths, means, grams = (
        torch.empty(n, dtype=wide, device=rows.device) for n in (where.rows, len(where.order), where.grams)
    )
    for chunk in where.chunks:
        for run in chunk.runs:
            item_grams[(run.size,)](
                rows,
                rows.stride(0),
                rows.shape[1],
                where.order,
                run.first,
                where.offsets,
                lengths,
                means,
                grams,
                run.gram,
                B=run.block,
                BD=width_block(rows.shape[1], run.block),
                WIDE=kernel_dtype(wide),
                PRECISION=product_precision(precision, exact=True),
                num_warps=4 if run.block < 128 else 8,
            )
    return Side(where, rows, lengths, means, grams)


def width_block(width: int, block: int) -> int:
    """Columns of the features that a Gram kernel holds at a time."""
    return min(max(16, 1 << (width - 1).bit_length()), 64 if block < 128 else 32)


def kernel_dtype(dtype: torch.dtype) -> object:
    """Triton's name of a torch dtype."""
    import triton.language as tl

    return tl.float64 if dtype == torch.float64 else tl.float32


def product_precision(precision: str, exact: bool = False) -> str:
    """How the kernels multiply float32 operands.

    "tf32x3" (three products, about float32's own error) where features are float32; one product of operands rounded to
    tf32 (2⁻¹¹) where features are rounded more coarsely themselves, unless ``exact``.
    """
    if precision == "float64":
        return "ieee"
    return "tf32x3" if exact or precision == "float32" else "tf32"
