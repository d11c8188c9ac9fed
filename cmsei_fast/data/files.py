"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator

# Bytes: the longest file name where the system states none, and how much longer a temporary name is.
_USUAL_LENGTH, _ADDED_LENGTH = 255, 15


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yields the name of an empty file beside ``path``, which replaces ``path`` when the block ends without an error.

    A reader never sees half a file: after an error, ``path`` is as before and the new file is removed. A process that
    is killed leaves a file whose name starts with a dot and ends in ``.part``.

    Raises:
        OSError: there is no such directory, it cannot be written, or ``path`` is a directory; where the disk is full,
            the error names ``path``.
    """
    check_target(path)
    target = os.path.abspath(os.fspath(path))
    with errors_naming(path, directory=os.path.dirname(target)):
        temporary = temporary_name(target)
        try:
            with open(temporary, "xb"):
                pass
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):  # removed with its directory
                os.unlink(temporary)
            raise


def temporary_name(target: str | os.PathLike[str], ending: str = ".part") -> str:
    """A hidden, unused name in the directory of ``target``.

    It is made before the file is, so that the file can be removed at any moment.
    """
    directory, name = os.path.split(os.path.abspath(os.fspath(target)))
    return os.path.join(directory, f".{name}.{secrets.token_hex(4)}{ending}")


@contextlib.contextmanager
def errors_naming(path: str | os.PathLike[str], directory: str | None = None) -> Iterator[None]:
    """Puts ``path`` into system errors of the block that name no file, such as that of a full disk.

    Errors that name a hidden ``.part`` file in ``directory`` get ``path`` too: the user does not know that file.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or not (error.filename is None or _is_temporary(error.filename, directory)):
            raise
        raise OSError(error.errno, os.strerror(error.errno), os.fspath(path)) from error


@contextlib.contextmanager
def errors_renamed(new: str | os.PathLike[str], target: str | os.PathLike[str]) -> Iterator[None]:
    """Makes errors of the block about the directory ``new`` or its files name ``target``, which it will replace."""
    try:
        yield
    except OSError as error:
        if error.errno is None or not isinstance(error.filename, (str, os.PathLike)):
            raise
        inside = os.path.relpath(error.filename, new)
        if inside.startswith(os.pardir):
            raise
        renamed = os.fspath(target) if inside == os.curdir else os.path.join(target, inside)
        raise OSError(error.errno, os.strerror(error.errno), renamed) from error


def _is_temporary(filename: object, directory: str | None) -> bool:
    """Whether the file has a temporary name and lies in the directory."""
    if directory is None or not isinstance(filename, str) or os.path.dirname(filename) != directory:
        return False
    name = os.path.basename(filename)
    return name.startswith(".") and name.endswith(".part")


def remove_directory(path: str | os.PathLike[str]) -> None:
    """Removes a directory and everything in it; for a link to a directory, only the link.

    Not ``shutil.rmtree``: an interrupt between two of its lines makes it close a descriptor twice, which by then may be
    another thread's file.

    Raises:
        OSError: something cannot be removed.
    """
    if os.path.islink(path):
        os.unlink(path)
        return
    for name in os.listdir(path):
        entry = os.path.join(path, name)
        if os.path.isdir(entry):
            remove_directory(entry)
        else:
            os.unlink(entry)
    os.rmdir(path)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes text as UTF-8, whole or not at all; raises as :func:`replacing` does."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)


def check_target(path: str | os.PathLike[str], name: str | None = None, suffix: str = "") -> None:
    """Checks that a file can be written at ``path``.

    Args:
        path: the file.
        name: the argument or flag that gave the path, for the message; None: the message begins with the path.
        suffix: the longest suffix of the other files that are written as ``path`` + suffix.

    Raises:
        OSError: the directory is missing or cannot be written, ``path`` is a directory, or its name is too long.
    """
    target, shown = os.path.abspath(os.fspath(path)), os.fspath(path)
    owner, got = (shown, "") if name is None else (name, f", got {shown}")
    if os.path.isdir(target):
        a_directory = "a directory" if name is None else f"the directory {shown}"
        raise IsADirectoryError(f"{owner}: expected the name of a file, got {a_directory}")
    if not os.path.isdir(os.path.dirname(target)):
        raise FileNotFoundError(f"{owner}: expected a file in an existing directory{got}")
    if not os.access(os.path.dirname(target), os.W_OK):
        raise PermissionError(f"{owner}: expected a file in a directory that can be written{got}")
    longest = _longest_name(os.path.dirname(target)) - len(os.fsencode(suffix))
    if (size := len(os.fsencode(os.path.basename(target)))) > longest:
        raise OSError(f"{owner}: expected the name of a file of at most {longest} bytes, got {size}")


def check_room(directory: str | os.PathLike[str], needed: int, name: str, what: str) -> None:
    """Checks before hours of work that the disk has room for the result.

    Args:
        directory: on the disk.
        needed: bytes.
        name: the argument or the file, for the message.
        what: what needs the room, for the message.

    Raises:
        OSError: the disk has less free space.
    """
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise OSError(f"{name}: expected {_size(needed)} of room for {what}, got {_size(free)}")


def _size(count: int) -> str:
    """Formats a number of bytes in the largest unit that it fills."""
    unit, scale = next(((u, s) for u, s in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)) if count >= s), ("", 1))
    return f"{count / scale:.2f} {unit}" if unit else f"{count} bytes"


def _longest_name(directory: str) -> int:
    """Bytes of the longest file name in the directory whose temporary name fits too."""
    try:
        limit = os.pathconf(directory, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # not POSIX, or unknown
        limit = 0
    # File systems without a limit of their own return 0 or -1.
    return (limit if limit > _ADDED_LENGTH else _USUAL_LENGTH) - _ADDED_LENGTH
