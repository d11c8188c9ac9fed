"""Processes of one group, two or more, started as ``torchrun`` starts them."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def processes(*arguments: Sequence[str], cwd: Path | None = None, **environment: str) -> Iterator[list[Popen[str]]]:
    """Python with each of these arguments; what the processes say is piped, and they end with the block.

    Args:
        arguments: one sequence for each process.
        cwd: where they are started; None is here.
        environment: further variables of all.
    """
    group = {"WORLD_SIZE": str(len(arguments)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared = os.environ | group | environment
    started = [
        Popen(
            [sys.executable, *own],
            cwd=cwd,
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=PIPE,
            stderr=PIPE,
            text=True,
        )
        for rank, own in enumerate(arguments)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def two_processes(*arguments: Sequence[str], **options: Any) -> AbstractContextManager[list[Popen[str]]]:
    """:func:`processes` with one sequence of arguments for both, or two."""
    return processes(*(arguments if len(arguments) == 2 else arguments * 2), **options)
