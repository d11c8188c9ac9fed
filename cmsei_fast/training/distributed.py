"""Negatives from all processes: rows and scores are gathered with gradients, so that a step is one process's step."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from ..devices import own_device
from ..encoded import Encoded


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@contextmanager
def process_group(device: str | None = None) -> Iterator[torch.device]:
    """Inside the block, the processes that ``torchrun`` started are one group; gives this process's device.

    NCCL where each process has a GPU, else gloo. Without ``torchrun`` there is one process and no group.

    Raises:
        ValueError: for a device that is not here.
    """
    chosen = own_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ or dist.is_initialized():
        yield chosen
        return
    # Its functions keep the group that there is at their import as a default: its threads would outlive it, and now and
    # then abort the interpreter that winds up.
    importlib.import_module("torch.distributed.nn.functional")
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield chosen
    finally:
        dist.destroy_process_group()


def gather_rows(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """(Σ counts, …): the rows of all processes in their order; gradients go back to the process a row came from.

    Args:
        rows: (counts[rank], …) of this process.
        counts: rows of each process.
    """
    if len(counts) == 1:
        return rows
    from torch.distributed.nn.functional import all_gather

    most = max(counts)
    padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
    return torch.cat([part[:count] for part, count in zip(all_gather(padded), counts, strict=True)])


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
