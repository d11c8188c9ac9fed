"""The source tree: where it is, and its files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

fcntl: Any = None
with contextlib.suppress(ImportError):  # not on Windows
    import fcntl

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "cmsei_fast"


def sources(pattern: str) -> list[str]:
    """Paths from the root of the files that match, always in one order."""
    return sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern))


def write_if_changed(path: Path, text: str) -> None:
    """Writes a file, keeping its time stamp if it already says the same."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """In the block, no other build works in this folder, which is made: waits for one that does, as ninja does not.

    A file system without locks has none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="utf-8") as file:
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
