"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[str]:
    """Gives the name of an empty file beside ``path`` that takes its place when the block ends well.

    A reader never sees half a file: on an error what was at ``path`` stays as it is and the new file is removed. A
    process that is killed leaves a file that starts with a dot and ends in ``.part``.

    Raises:
        OSError: there is no such directory, it cannot be written, or ``path`` is a directory.
    """
    check_target(path)
    target = os.path.abspath(os.fspath(path))
    handle, temporary = tempfile.mkstemp(
        dir=os.path.dirname(target), prefix=f".{os.path.basename(target)}.", suffix=".part"
    )
    os.close(handle)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's files are for their owner alone
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def check_target(path: str | os.PathLike[str]) -> None:
    """``path`` can be the name of a file: its directory is there, and it is none itself.

    Raises:
        OSError: otherwise.
    """
    target = os.path.abspath(os.fspath(path))
    if os.path.isdir(target):
        raise IsADirectoryError(f"{os.fspath(path)}: expected the name of a file, got a directory")
    if not os.path.isdir(os.path.dirname(target)):
        raise FileNotFoundError(f"{os.fspath(path)}: expected a file in an existing directory")
