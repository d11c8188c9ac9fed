"""How the processes of a launcher find each other before there is a group."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from .exchange import ProcessLost, first_line

VARIABLE, SECONDS = "CMSEI_CONNECT_SECONDS", 120.0
_PAUSE = 0.2  # seconds between two tries to connect
_CHECKED, _READ = "cmsei_fast/checked", "cmsei_fast/read"

T = TypeVar("T")


@contextmanager
def connect(check: Callable[[], T]) -> Iterator[tuple[T, Any, int, int]]:
    """Gives the launcher's store once every process has reached it and none failed in ``check``.

    Args:
        check: called in this process before it joins; raises if the process cannot take part.

    Yields:
        What ``check`` gives, and the store, the rank and the number of processes for ``init_process_group``.

    Raises:
        ProcessLost: if another process failed in ``check`` or did not come in time. What ``check`` raises, too.
        ValueError: for an invalid environment variable.
    """
    seconds = connect_seconds()
    place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        value, failure = check(), None
    except Exception as error:
        value, failure = None, error
    try:
        _wait_for_host(seconds)
        store, rank, size = next(iter(dist.rendezvous("env://", timeout=timedelta(seconds=seconds))))
        message = "" if failure is None else f"{type(failure).__name__}: {failure}"
        store.set(f"{_CHECKED}/{rank}", message)
        store.wait([f"{_CHECKED}/{other}" for other in range(size)], timedelta(seconds=seconds))
        each = [store.get(f"{_CHECKED}/{other}").decode() for other in range(size)]
    except (OSError, RuntimeError, ValueError) as error:
        if failure is not None:
            raise failure from None
        raise ProcessLost(
            f"expected the processes of the group to meet at {place} within {seconds:g} s, got none or not all: is the "
            f"launcher or one of them gone? ({VARIABLE} gives them more time; torch says: {first_line(error):.200})"
        ) from error
    if any(each):
        store.set(f"{_READ}/{rank}", "")
        if rank == 0:  # it may hold the store, which ends with it
            with contextlib.suppress(RuntimeError):
                store.wait([f"{_READ}/{other}" for other in range(size)], timedelta(seconds=10))
        if failure is not None:
            raise failure
        first = next(other for other in range(size) if each[other])
        raise ProcessLost(f"process {first} of {size} failed: {each[first]}")
    yield value, store, rank, size  # type: ignore[misc]


def _wait_for_host(seconds: float) -> None:
    """Waits for whoever holds the store: torch's own wait is twice as long, and tells of each try with a trace.

    Raises:
        OSError: nobody does.
    """
    agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if (os.environ["RANK"] == "0" and not agents) or not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return  # it holds the store itself, or torch says which variable is missing
    host = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(host, timeout=max(0.1, end - time.monotonic())).close()
            return
        except OSError:
            if time.monotonic() + _PAUSE > end:
                raise
        time.sleep(_PAUSE)


def connect_seconds() -> float:
    """How long processes wait for each other.

    Raises:
        ValueError: for no number above 0.
    """
    text = os.environ.get(VARIABLE, "")
    if not text:
        return SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(f"{VARIABLE}: expected a number of seconds above 0, got {text!r}")
    return seconds
