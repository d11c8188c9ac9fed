"""One side of the problem, in any accepted form, read block by block as packed rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checks import dtype_of
from .data.split import offsets_from_counts
from .engines.terms import PRECISIONS, rounded_rows


@dataclass(frozen=True)
class Block:
    """Packed rows (T, D) of the items ``first <= i < last``; offsets (last - first + 1,) int64 from 0 to T."""

    first: int
    last: int
    rows: Tensor
    offsets: np.ndarray


@dataclass(frozen=True)
class Items:
    """Images or captions: padded (n, width, D) with lengths or without, or packed (T, D) with lengths.

    Args:
        name: the argument, for errors (``"images"``, say); ``item`` one of it (``"image"``).
        data: numpy array or memmap, torch tensor or h5py dataset, already checked.
        offsets: (n + 1,) int64, rows before each item; None for padded items of full length.
        precision: that the rows are rounded to as they are read; None leaves them as they are.
        count: number of items.
        label: what errors call an item, given its index.
    """

    name: str
    item: str
    data: Any
    offsets: np.ndarray | None
    precision: str | None
    count: int
    label: Callable[[int], str] = str

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows that are read."""
        return dtype_of(self.name, self.data) if self.precision is None else PRECISIONS[self.precision]

    @property
    def row_offsets(self) -> np.ndarray:
        """(count + 1,) int64: rows without padding before each item."""
        if self.offsets is None:
            return np.arange(self.count + 1, dtype=np.int64) * int(self.data.shape[1])
        return self.offsets

    def ranges(self, limit: int) -> Iterator[tuple[int, int]]:
        """Runs of items of about ``limit`` bytes as they lie in ``data`` (padding included), at least one item each."""
        row = int(self.data.shape[-1]) * max(_itemsize(self.data), self.dtype.itemsize)
        if self.packed and self.offsets is not None:
            yield from runs(self.row_offsets, max(1, limit // row))
            return
        step = max(1, limit // (row * int(self.data.shape[1])))
        for first in range(0, self.count, step):
            yield first, min(first + step, self.count)

    @property
    def largest(self) -> int:
        """Bytes of the largest item as it lies in ``data``."""
        rows = int(self.data.shape[1]) if not self.packed else 0
        if self.packed and self.offsets is not None and self.count:
            rows = int(np.diff(self.offsets).max())
        return rows * int(self.data.shape[-1]) * _itemsize(self.data)

    @property
    def packed(self) -> bool:
        """Whether the rows lie one behind another without padding."""
        return len(self.data.shape) == 2

    def read(self, first: int, last: int, check: bool) -> Block:
        """The rows of a run of items in ``dtype``, rounded; a view where that is possible.

        Args:
            check: look for NaN and infinities in the rows (padding is never looked at).

        Raises:
            ValueError: naming the first item that is not finite, or beyond the range of the precision.
        """
        if self.offsets is None:
            width = int(self.data.shape[1])
            offsets = np.arange(last - first + 1, dtype=np.int64) * width
            rows = as_tensor(self.data[first:last].reshape(-1, self.data.shape[2]))
        else:
            bounds = self.offsets[first : last + 1]
            offsets = bounds - bounds[0]
            if self.packed:
                rows = as_tensor(self.data[int(bounds[0]) : int(bounds[-1])])
            else:
                rows = _without_padding(self.data[first:last], np.diff(bounds))
        if check:
            self._check_finite(rows, offsets, first, "expected finite features, got NaN or an infinity")
            if self.offsets is None:
                self._check_padding(rows.view(last - first, -1, rows.shape[1]))
        out = rows if self.precision is None else rounded_rows(rows, self.precision)
        if check and out.dtype != rows.dtype and torch.finfo(out.dtype).max < torch.finfo(rows.dtype).max:
            limit = f"expected features within the range of {self.precision}, got larger ones"
            self._check_finite(out, offsets, first, limit)
        return Block(first, last, out, offsets)

    def _check_padding(self, items: Tensor) -> None:
        """A warning, once, where some of the items (n, width, D) end in a row of zeros and do not begin with one."""
        ends = ~items[:, -1].any(-1)
        if ends.any() and items[ends, 0].any():
            warnings.warn(
                f"{self.name}: some end in rows of zeros, which are scored like others: lengths leave padding out",
                stacklevel=2,
            )

    def _check_finite(self, rows: Tensor, offsets: np.ndarray, first: int, problem: str) -> None:
        # Neither pass makes a temporary. A finite sum has finite terms and is the faster; an infinite one says nothing.
        if torch.isfinite(rows.sum()) or all(map(torch.isfinite, torch.aminmax(rows))):
            return
        row = int((~torch.isfinite(rows)).any(1).nonzero()[0, 0])
        index = first + int(np.searchsorted(offsets, row, side="right")) - 1
        raise ValueError(f"{self.name}: {problem} in {self.item} {self.label(index)}")


@dataclass(frozen=True)
class SomeItems(Items):
    """Those at some places of all items, which alone are read.

    Args:
        whole: all items.
        places: (count,) int64, increasing, at least one.
    """

    whole: Items = field(kw_only=True)
    places: np.ndarray = field(kw_only=True)

    def read(self, first: int, last: int, check: bool) -> Block:
        """As :meth:`Items.read`; neighbours are read together, and one run of them is a view where that is possible."""
        places = self.places[first:last]
        cuts = [0, *(np.flatnonzero(np.diff(places) != 1) + 1).tolist(), len(places)]
        if len(cuts) == 2:
            block = self.whole.read(int(places[0]), int(places[-1]) + 1, check)
            return Block(first, last, block.rows, block.offsets)
        offsets = self.row_offsets[first : last + 1] - self.row_offsets[first]
        device = self.data.device if isinstance(self.data, Tensor) else torch.device("cpu")
        rows = torch.empty((int(offsets[-1]), int(self.data.shape[-1])), dtype=self.dtype, device=device)
        for start, stop in pairwise(cuts):
            block = self.whole.read(int(places[start]), int(places[stop - 1]) + 1, check)
            rows[int(offsets[start]) : int(offsets[stop])] = block.rows
        return Block(first, last, rows, offsets)


def some_items(whole: Items, places: np.ndarray) -> Items:
    """The items at those places (n,) int64, increasing; all of them are the items as they are."""
    if len(places) == whole.count:
        return whole
    offsets = None
    if whole.offsets is not None:
        offsets = offsets_from_counts(np.diff(whole.offsets)[places])

    def label(i: int) -> str:
        return whole.label(int(places[i]))

    parts = (whole.name, whole.item, whole.data, offsets, whole.precision, len(places), label)
    return SomeItems(*parts, whole=whole, places=places)


def make_items(
    name: str,
    item: str,
    data: Any,
    lengths: np.ndarray | None,
    precision: str | None,
    label: Callable[[int], str] = str,
) -> Items:
    """All items of checked features; lengths are None or (n,) int64."""
    data = data.detach() if isinstance(data, Tensor) else data
    count = int(data.shape[0]) if lengths is None else len(lengths)
    padded = len(data.shape) == 3
    if lengths is None or (padded and count and int(lengths.min()) == data.shape[1]):
        return Items(name, item, data, None, precision, count, label)
    return Items(name, item, data, offsets_from_counts(lengths), precision, count, label)


def runs(offsets: np.ndarray, limit: int) -> Iterator[tuple[int, int]]:
    """Cuts items with offsets (n + 1,) into runs (first, last) of at most ``limit`` rows, at least one item each."""
    first, count = 0, len(offsets) - 1
    while first < count:
        last = int(np.searchsorted(offsets, offsets[first] + limit, side="right")) - 1
        last = min(max(last, first + 1), count)
        yield first, last
        first = last


def _itemsize(data: Any) -> int:
    return data.element_size() if isinstance(data, Tensor) else data.dtype.itemsize


def as_tensor(block: Any) -> Tensor:
    """An array as a tensor. Memory that torch cannot share (read-only, byte-swapped, reversed) is copied."""
    if isinstance(block, Tensor):
        return block
    array = np.asarray(block)
    # One row of a reversed array is contiguous to numpy, and its stride negative.
    good = array.flags.c_contiguous and array.flags.writeable and array.dtype.isnative and min(array.strides) >= 0
    return torch.from_numpy(array if good else np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def _without_padding(block: Any, lengths: np.ndarray) -> Tensor:
    """(n, width, D) → (Σ lengths, D), copied once."""
    keep = np.arange(block.shape[1]) < lengths[:, None]  # (n, width)
    if isinstance(block, Tensor):
        return block[torch.from_numpy(keep).to(block.device)]
    return as_tensor(np.asarray(block)[keep])
