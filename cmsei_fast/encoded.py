"""Encoded images or captions: packed rows and how many belong to each item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Encoded:
    """What ``CMSEI.encode_images`` and ``encode_captions`` return; :func:`cmsei_fast.score_matrix` takes it as it is.

    Args:
        rows: (T, D) regions or words, item by item without padding; floating.
        lengths: (n,) int64 on the CPU, rows of each item; their sum is T.
    """

    rows: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def offsets(self) -> Tensor:
        """(n + 1,) int64 on the CPU: rows before each item."""
        return torch.cat([self.lengths.new_zeros(1), self.lengths.cumsum(0)])

    def padded(self) -> tuple[Tensor, Tensor]:
        """Rows as (n, longest, D), 0 in the padding, and the lengths."""
        mask = length_mask(self.lengths).to(self.rows.device)  # (n, longest)
        out = self.rows.new_zeros(*mask.shape, self.rows.shape[-1])
        out[mask] = self.rows
        return out, self.lengths

    @staticmethod
    def cat(parts: Sequence[Encoded]) -> Encoded:
        """One after another; at least one part."""
        return Encoded(torch.cat([p.rows for p in parts]), torch.cat([p.lengths for p in parts]))


def length_mask(lengths: Tensor) -> Tensor:
    """(n, longest) bool, True for the first ``lengths[i]`` places of row i."""
    longest = int(lengths.max()) if len(lengths) else 0
    return torch.arange(longest, device=lengths.device) < lengths[:, None]
