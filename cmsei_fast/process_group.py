"""The processes that ``torchrun`` started: this process's place among them, their group and its device."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from . import engines
from .devices import process_device
from .exchange import Exchange, place_in, raise_process_lost


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) without a process group."""
    return place_in(default_group())


def default_group() -> Any:
    """The group of all processes; None without one."""
    return dist.group.WORLD if dist.is_available() else None


@contextmanager
def process_group(device: str | None = None) -> Iterator[torch.device]:
    """Makes the processes that ``torchrun`` started one group inside the block; gives this process's device.

    The group uses NCCL if each process has a GPU, else gloo. Without ``torchrun`` there is one process and no group.
    The processes must connect within ``CMSEI_CONNECT_SECONDS`` (120 if unset); torch's own limit of 30 minutes is for
    the work.

    Raises:
        ValueError: for a device that is not here, or an invalid number of seconds.
        ProcessLost: if another process has no such device, or did not connect.
    """
    there = dist.is_available() and dist.is_initialized()
    if not there and not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        yield process_device(device)
        return
    _unbind_default_group()
    if there:
        with together():
            chosen = _set_device(device)
        yield chosen
        return
    from .connecting import connect

    with connect(lambda: _set_device(device)) as (chosen, store, rank, size), raise_process_lost():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", store=store, rank=rank, world_size=size)
    try:
        yield chosen
    finally:
        dist.destroy_process_group()


@contextmanager
def together() -> Iterator[None]:
    """At the end of the block all processes meet: an error in one of them, as of a file that it lacks, ends all.

    Raises:
        ProcessLost: another process failed, with its error, or is lost.
    """
    with Exchange(default_group()).together():
        yield


def agreed_engine(engine: str, device: torch.device | str, operator: str, config: list[int] | None = None) -> str:
    """The engine of that name, in all processes; of ``"auto"`` what it means in each, and ``eager`` if that differs.

    Args:
        engine: ``"auto"`` or an engine's name.
        device: of this process.
        operator: ``"pair_score"`` or ``"relation_attention"``.
        config: ``PairScorer.config()`` of what is to be scored.

    Raises:
        ValueError, EngineUnavailable: as :func:`cmsei_fast.engines.get` does, and where the names differ.
        ProcessLost: another process cannot have its engine.
    """
    exchange = Exchange(default_group())
    with exchange.together():
        own = engines.choose(device, operator, config) if engine == "auto" else engine
        engines.get(own, device, operator, config)
    each = exchange.texts(own)
    if len(set(each)) == 1:
        return own
    found = ", ".join(f"{name} in process {rank}" for rank, name in enumerate(each))
    if set(exchange.texts(engine)) != {"auto"}:
        raise ValueError(f"engine: expected the same in every process, got {found}")
    if exchange.rank == 0:
        warnings.warn(f"engine 'auto' is {found}: all of them use 'eager' for {operator}", stacklevel=2)
    return "eager"


def _set_device(device: str | None) -> torch.device:
    chosen = process_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    return chosen


def _unbind_default_group() -> None:
    """Makes torch forget a group that it may have taken for a default value.

    The functions of torch.distributed.nn, which torch's optimizers import by a long way, keep the group that is there
    at their import as the default of an argument. It would outlive its end, and its threads now and then abort the
    interpreter that winds up. None in its place means the default group of the moment.
    """
    for function in vars(importlib.import_module("torch.distributed.nn.functional")).values():
        if defaults := getattr(function, "__defaults__", None):
            function.__defaults__ = tuple(None if isinstance(x, dist.ProcessGroup) else x for x in defaults)
