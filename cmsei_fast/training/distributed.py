"""Negatives from all processes: rows and scores are gathered with gradients, so that a step is one process's step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..encoded import Encoded


class _Gather(torch.autograd.Function):
    """(world, …): the tensors of all processes, of one shape; a process's gradient is the sum of all processes'."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        parts = [torch.empty_like(mine, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, mine.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        if dist.get_backend() == "nccl":
            mine = torch.empty_like(gradient[0], memory_format=torch.contiguous_format)
            dist.reduce_scatter_tensor(mine, gradient.contiguous())
            return mine
        total = gradient.clone(memory_format=torch.contiguous_format)  # gloo has no reduce_scatter in every release
        dist.all_reduce(total)
        return total[dist.get_rank()]


def gather_rows(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """(Σ counts, …): the rows of all processes in their order; gradients go back to the process a row came from.

    Args:
        rows: (counts[rank], …) of this process.
        counts: rows of each process.
    """
    if len(counts) == 1:
        return rows
    most = max(counts)
    padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
    return torch.cat([part[:count] for part, count in zip(_Gather.apply(padded), counts, strict=True)])


def gather_encoded(encoded: Encoded, counts: Sequence[int]) -> Encoded:
    """The items of all processes, ``counts`` of them in each; differentiable as :func:`gather_rows`."""
    if len(counts) == 1:
        return encoded
    device = encoded.rows.device
    lengths = torch.cat([encoded.lengths, encoded.lengths.new_zeros(max(counts) - len(encoded))]).to(device)
    all_lengths = [torch.empty_like(lengths) for _ in counts]
    dist.all_gather(all_lengths, lengths)
    each = [x[:count].cpu() for x, count in zip(all_lengths, counts, strict=True)]
    return Encoded(gather_rows(encoded.rows, [int(x.sum()) for x in each]), torch.cat(each))
