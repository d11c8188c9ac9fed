"""Encoded images or captions: packed rows and how many belong to each item."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .compiling import outside_graphs


@dataclass(frozen=True, eq=False)
class Encoded:
    """Images or captions as packed rows. ``CMSEI.encode_images`` and ``encode_captions`` return it, and functions such
    as :func:`cmsei_fast.score_matrix` and :func:`cmsei_fast.pair_score` take it as it is.

    Args:
        rows: (T, D) regions or words, item by item without padding; floating.
        lengths: (n,) int64 on the CPU, number of rows of each item; their sum is T. A list or an array is converted.

    Raises:
        TypeError: for lengths that are no integers.
    """

    rows: Tensor
    lengths: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.lengths, Tensor):
            from . import checks

            object.__setattr__(self, "lengths", torch.from_numpy(checks.integers("lengths", self.lengths)).long())

    def __len__(self) -> int:
        return len(self.lengths)

    @outside_graphs
    def __getitem__(self, items: Any) -> Encoded:
        """Some of the items, again as :class:`Encoded`; differentiable.

        Args:
            items: an index (which gives an Encoded of one item), a slice, or a list, array or tensor of indices, or of
                one bool for each item. Negative indices count from the end.

        Raises:
            IndexError: for an index that no item has, or a mask of another length.
            TypeError: for anything else.
        """
        places = _places(items, len(self))
        lengths = self.lengths[places]
        first = self.offsets[:-1][places] - (lengths.cumsum(0) - lengths)
        rows = torch.repeat_interleave(first, lengths) + torch.arange(int(lengths.sum()), device=lengths.device)
        return Encoded(self.rows[rows.to(self.rows.device)], lengths)

    def __iter__(self) -> Iterator[Encoded]:
        """Item by item."""
        return (self[i] for i in range(len(self)))

    @property
    def offsets(self) -> Tensor:
        """(n + 1,) int64 on the CPU: rows before each item."""
        return torch.cat([self.lengths.new_zeros(1), self.lengths.cumsum(0)])

    def to(self, *args: Any, **kwargs: Any) -> Encoded:
        """The rows on another device or of another dtype; differentiable.

        It takes the arguments of :meth:`torch.Tensor.to`. Lengths stay on the CPU.
        """
        return Encoded(self.rows.to(*args, **kwargs), self.lengths)

    def detach(self) -> Encoded:
        """The same rows, outside the autograd graph: features to keep, such as a bank of negatives."""
        return Encoded(self.rows.detach(), self.lengths)

    @outside_graphs
    def padded(self) -> tuple[Tensor, Tensor]:
        """Rows as (n, longest, D), 0 in the padding, and the lengths."""
        mask = length_mask(self.lengths).to(self.rows.device)  # (n, longest)
        out = self.rows.new_zeros(*mask.shape, self.rows.shape[-1])
        out[mask] = self.rows
        return out, self.lengths

    @staticmethod
    @outside_graphs
    def from_padded(features: Tensor, lengths: Any = None) -> Encoded:
        """Padded items (n, L, D) without their padding; differentiable.

        Args:
            features: (n, L, D), floating, on any device.
            lengths: (n,) number of rows of each item, a list, array or tensor of integers from 1 to L; None: L for all.

        Raises:
            TypeError: if features is no floating tensor or lengths are no integers.
            ValueError: for another rank, or lengths that do not fit.
        """
        from . import checks

        checks.check_padded_tensor(features)
        counts = checks.check_lengths("lengths", lengths, "item", tuple(features.shape))
        if counts is None:
            return Encoded(features.flatten(0, 1), torch.full((len(features),), features.shape[1], device="cpu"))
        kept = torch.from_numpy(counts)
        # Places, not a mask: how many rows are left is known without the values, as of a tensor on "meta".
        items, rows = (x.to(features.device) for x in length_mask(kept).nonzero(as_tuple=True))
        return Encoded(features[items, rows], kept)

    @staticmethod
    @outside_graphs
    def from_mask(features: Tensor, mask: Any) -> Encoded:
        """Padded items (n, L, D) without the rows that a mask drops, wherever they are; differentiable.

        Args:
            features: (n, L, D), floating, on any device.
            mask: (n, L) tensor or array of bool or of integers 0 and 1, such as a tokenizer's ``attention_mask``. At
                least one row of each item is kept.

        Raises:
            TypeError: if features is no floating tensor or mask is neither bool nor of integers.
            ValueError: for another rank, or a mask that does not fit.
        """
        from . import checks

        checks.check_padded_tensor(features)
        kept = checks.check_mask(mask, (features.shape[0], features.shape[1]))
        items, rows = (x.to(features.device) for x in kept.nonzero(as_tuple=True))
        return Encoded(features[items, rows], kept.sum(1))

    @staticmethod
    def cat(parts: Iterable[Encoded]) -> Encoded:
        """The items of all parts, one part after the other.

        Raises:
            TypeError: if a part is something else.
            ValueError: for no part, or parts of unlike widths.
        """
        parts = list(parts)
        if not parts:
            raise ValueError("parts: expected at least one Encoded, got none")
        for i, part in enumerate(parts):
            if not isinstance(part, Encoded):
                raise TypeError(f"parts[{i}]: expected an Encoded, got {type(part).__name__}")
            if part.rows.shape[-1] != (width := parts[0].rows.shape[-1]):
                raise ValueError(f"parts[{i}]: expected rows of width {width} (as parts[0]), got {part.rows.shape[-1]}")
        return Encoded(torch.cat([p.rows for p in parts]), torch.cat([p.lengths for p in parts]))


def _places(items: Any, n: int) -> Tensor:
    """(k,) int64 from 0 to n - 1: the items that an index means."""
    if isinstance(items, slice):
        return torch.tensor(range(*items.indices(n)), dtype=torch.int64, device="cpu")
    given = np.asarray(items.detach().cpu() if isinstance(items, Tensor) else items)
    if given.size == 0 and isinstance(items, (list, tuple)):
        given = given.astype(np.int64)
    if given.dtype.kind not in "iub" or given.ndim > 1 or (given.dtype == bool and given.ndim == 0):
        kind = type(items).__name__ if given.dtype == object else f"{given.dtype} of shape {given.shape}"
        raise TypeError(f"items: expected an integer, a slice, or indices or a mask in one dimension, got {kind}")
    if given.dtype == bool:
        if len(given) != n:
            raise IndexError(f"items: expected a mask of {n} items, got one of {len(given)}")
        return torch.from_numpy(np.flatnonzero(given))
    indices = given.reshape(-1).astype(np.int64)
    wrong = indices[(indices < -n) | (indices >= n)]
    if len(wrong):
        raise IndexError(f"items: expected indices >= {-n} and < {n}, got {wrong[0]}")
    return torch.from_numpy(np.where(indices < 0, indices + n, indices))


def length_mask(lengths: Tensor) -> Tensor:
    """(n, longest) bool, True for the first ``lengths[i]`` places of row i."""
    longest = int(lengths.max()) if len(lengths) else 0
    return torch.arange(longest, device=lengths.device) < lengths[:, None]
