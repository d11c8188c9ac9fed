"""Groups items of one length, so that a tile of pairs needs no padding and no mask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Chunk:
    """X items of n rows each.

    Args:
        items: (X,) int64, the index of each among all items.
        rows: (X, n, D).
        gram: (X, n, n) inner products of an item's rows, None where they are not needed.
        state: (X, …) rows of the caller's ``state`` for these items, None if there is none.
    """

    items: Tensor
    rows: Tensor
    gram: Tensor | None
    state: Tensor | None
    _parts: dict[int, list[Chunk]] = field(default_factory=dict, repr=False)

    def parts(self, size: int) -> list[Chunk]:
        """Chunks of at most ``size`` items, as views; the same objects each time, so that gradients add up in one."""
        if size not in self._parts:
            count = -(-len(self.items) // size)
            whole = (self.items, self.rows, self.gram, self.state)
            cut = [[None] * count if x is None else x.split(size) for x in whole]
            self._parts[size] = [Chunk(*four) for four in zip(*cut, strict=True)]
        return self._parts[size]


class ItemsByLength:
    """Images or captions, grouped by their number of rows.

    Args:
        rows: padded (n, longest, D) or packed (ΣL, D).
        lengths: (n,) int64 on the CPU.
        state: (n, …) or None.
        dtype: the dtype of the chunks' rows.
        gram: compute the inner products of each item's rows.
    """

    def __init__(self, rows: Tensor, lengths: Tensor, state: Tensor | None, dtype: torch.dtype, gram: bool) -> None:
        self._rows, self._state, self._dtype, self._gram = rows, state, dtype, gram
        if rows.dim() == 3:
            starts = torch.arange(len(lengths), device="cpu") * rows.shape[1]
        else:
            starts = lengths.cumsum(0) - lengths
        self._starts = starts
        self._flat = rows.flatten(0, -2)  # (rows, D)
        ordered, order = lengths.sort(stable=True)
        self.groups = [(int(n), ids) for n, ids in _runs(ordered, order)]

    def chunk(self, length: int, items: Tensor) -> Chunk:
        """A chunk of the items with these indices (X,), all of that length; a view if their rows are contiguous."""
        starts, width = self._starts[items], self._flat.shape[1]
        first, last = int(starts[0]), int(starts[-1]) + length
        if last - first == length * len(items):
            rows = self._flat[first:last]
        else:
            take = starts[:, None] + torch.arange(length, device="cpu")
            rows = self._flat.index_select(0, take.flatten().to(self._flat.device))
        rows = rows.to(self._dtype).view(len(items), length, width)
        own = items.to(rows.device)
        state = None if self._state is None else self._state.index_select(0, own)
        with torch.autocast(rows.device.type, enabled=False):
            gram = rows @ rows.mT if self._gram else None
        return Chunk(own, rows, gram, state)

    def whole(self) -> list[Chunk]:
        """One chunk for each length."""
        return [self.chunk(n, ids) for n, ids in self.groups]

    def chunks(self, rows: int, items: int) -> Iterator[Chunk]:
        """Yields chunks of at most ``rows`` rows and ``items`` items (one item at least), each made on demand."""
        for n, ids in self.groups:
            for part in ids.split(max(1, min(items, rows // n))):
                yield self.chunk(n, part)


def _runs(lengths: Tensor, order: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(length, items) of sorted lengths."""
    values, counts = lengths.unique_consecutive(return_counts=True)
    yield from zip(values.tolist(), order.split(counts.tolist()), strict=True)
