"""Two processes of one group, started as ``torchrun`` starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def two_processes(
    *arguments: Sequence[str], cwd: Path | None = None, **environment: str
) -> Iterator[list[subprocess.Popen[str]]]:
    """Python with these arguments, of both processes or of each; what they say is piped, and they end with the block.

    Args:
        arguments: one sequence for both, or two.
        cwd: where they are started; None is here.
        environment: further variables of both.
    """
    shared = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())} | environment
    first, second = arguments if len(arguments) == 2 else arguments * 2
    processes = [
        subprocess.Popen(
            [sys.executable, *own],
            cwd=cwd,
            env=shared | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, own in (("0", first), ("1", second))
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()
