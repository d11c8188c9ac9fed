"""Makes a step of several processes equal one process's: gathers rows and scores, and averages gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Module, Parameter

from ..encoded import Encoded
from ..exchange import raise_process_lost

# Numbers of the gradients that go to the other processes at once.
_AT_ONCE = 1 << 24


class _Gather(torch.autograd.Function):
    """(world, …): the tensors of all processes, of one shape; a process's gradient is the sum of all processes'."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        parts = [torch.empty_like(mine, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        with raise_process_lost():
            dist.all_gather(parts, mine.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        if dist.get_backend() == "nccl":
            mine = torch.empty_like(gradient[0], memory_format=torch.contiguous_format)
            with raise_process_lost():
                dist.reduce_scatter_tensor(mine, gradient.contiguous())
            return mine
        total = gradient.clone(memory_format=torch.contiguous_format)  # gloo has no reduce_scatter in every release
        with raise_process_lost():
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
    """The first ``counts`` items of each process, in their order; differentiable as :func:`gather_rows`."""
    if len(counts) == 1:
        return encoded
    if len(encoded) > (own := counts[dist.get_rank()]):
        encoded = encoded[:own]
    device = encoded.rows.device
    lengths = torch.cat([encoded.lengths, encoded.lengths.new_zeros(max(counts) - len(encoded))]).to(device)
    all_lengths = [torch.empty_like(lengths) for _ in counts]
    with raise_process_lost():
        dist.all_gather(all_lengths, lengths)
    each = [x[:count].cpu() for x, count in zip(all_lengths, counts, strict=True)]
    return Encoded(gather_rows(encoded.rows, [int(x.sum()) for x in each]), torch.cat(each))


@torch.no_grad()
def broadcast_state(module: Module) -> None:
    """Parameters and buffers become those of process 0."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.numel():
            with raise_process_lost():
                dist.broadcast(tensor, 0)


@torch.no_grad()
def average_gradients(parameters: Sequence[Parameter]) -> None:
    """Each gradient becomes the mean over all processes; what no process's loss depends on keeps having none.

    ``DistributedDataParallel`` does this while the backward pass runs, but sorts gradients anew after its first step
    where all parameters have a say. The order of a sum is that of the sorting, so that a resumed run would have other
    bits than one that was not interrupted; here it is always that of the parameters. Where some have none, as a
    projection that no label uses or a transformer's pooler, it must be told so, and warns where that is not the case.

    Args:
        parameters: that learn, the same ones in every process.
    """
    if not dist.is_available() or not dist.is_initialized() or (size := dist.get_world_size()) == 1:
        return
    used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=parameters[0].device)
    with raise_process_lost():
        dist.all_reduce(used, dist.ReduceOp.MAX)
    run: list[Parameter] = []
    for parameter, is_used in zip(parameters, used.tolist(), strict=True):
        if not is_used:
            continue
        if run and (parameter.dtype != run[0].dtype or sum(p.numel() for p in run) + parameter.numel() > _AT_ONCE):
            _average(run, size)
            run = []
        run.append(parameter)
    if run:
        _average(run, size)


def _average(parameters: Sequence[Parameter], size: int) -> None:
    own = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([gradient.flatten() for gradient in own])
    with raise_process_lost():
        dist.all_reduce(flat)
    flat /= size
    for parameter, gradient, mean in zip(parameters, own, flat.split([p.numel() for p in parameters]), strict=True):
        gradient.copy_(mean.view_as(gradient))
        parameter.grad = gradient
