"""Encoding of images or captions shared by the processes of a torch.distributed group."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from .encoded import Encoded
from .exchange import Exchange, ProcessLost, exchange_device, place_in, raise_process_lost


def encoded_by_all(encode: Callable[[], Encoded], group: Any) -> Encoded:
    """What every process of a group has encoded, one process after the other, in each of them.

    Args:
        encode: what this process encodes.
        group: of torch.distributed; None is this process alone.

    Raises:
        TypeError: for another group, or one that this process is not in.
        ProcessLost: where another process failed or is lost; what ``encode`` raises, in the process that it fails in.
    """
    rank, size = place_in(group)
    if size == 1:
        return encode()
    import torch.distributed as dist

    try:
        mine = encode()
    except BaseException:
        with contextlib.suppress(ProcessLost):  # the error of this process is the one to raise
            Exchange(group).gather(torch.tensor([-1, -1], device="cpu"))
        raise
    counts = torch.tensor([len(mine), len(mine.rows)], device="cpu")
    sizes = torch.stack(Exchange(group, mine.rows.device).gather(counts))  # (P, 2)
    if (failed := (sizes[:, 0] < 0).nonzero()).numel():
        raise ProcessLost(f"process {int(failed[0])} of {size} failed to encode its share")
    device = exchange_device(group, mine.rows.device)
    own = mine.lengths.to(device), mine.rows.to(device)
    out = []
    for part, ends in zip(own, sizes.cumsum(0).T.tolist(), strict=True):
        whole = part.new_empty(ends[-1], *part.shape[1:])
        for sender, (first, last) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            if sender == rank:
                whole[first:last] = part
            if first < last:
                with raise_process_lost():
                    dist.broadcast(whole[first:last], dist.get_global_rank(group, sender), group=group)
        out.append(whole)
    return Encoded(out[1].to(mine.rows.device), out[0].cpu())
