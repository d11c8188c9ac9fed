"""Lets one process at a time train in a directory."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..data.files import errors_renamed
from ..process_group import rank_and_world

fcntl: Any = None
with contextlib.suppress(ImportError):  # not on Windows
    import fcntl

LOCK = ".lock"


@contextlib.contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """In the block, no other run trains in the directory, which is made; process 0 stands for those of its group.

    The lock is on the file ``.lock``, which stays, and ends with the process, however that ends. It is one of POSIX's
    record locks: a worker that outlives a killed run does not inherit it. A file system without locks has none.

    Raises:
        OSError: another process holds it, or the directory cannot be made or written.
    """
    if rank_and_world()[0] > 0:
        yield
        return
    directory.mkdir(parents=True, exist_ok=True)
    with errors_renamed(directory / LOCK, directory):
        file = open(directory / LOCK, "w", encoding="utf-8")  # noqa: SIM115 - closed by the block below
    with file:
        if fcntl is not None:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    raise OSError(f"{directory}: expected no other process that trains there, got one") from None
        yield
