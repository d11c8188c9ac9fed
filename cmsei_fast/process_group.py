"""The processes that ``torchrun`` started: this one's place among them, their group and its device."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from .devices import own_device


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def default_group() -> Any:
    """The group of all processes; None without one."""
    return dist.group.WORLD if dist.is_available() else None


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
    there = dist.is_available() and dist.is_initialized()
    if not there and not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        yield chosen
        return
    unbind_default_group()
    if there:
        yield chosen
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield chosen
    finally:
        dist.destroy_process_group()


def unbind_default_group() -> None:
    """Makes torch forget a group that it may have taken for a default value.

    The functions of torch.distributed.nn, which torch's optimizers import by a long way, keep the group that is there
    at their import as the default of an argument. It would outlive its end, and its threads now and then abort the
    interpreter that winds up. None in its place means the default group of the moment.
    """
    for function in vars(importlib.import_module("torch.distributed.nn.functional")).values():
        if defaults := getattr(function, "__defaults__", None):
            function.__defaults__ = tuple(None if isinstance(x, dist.ProcessGroup) else x for x in defaults)
