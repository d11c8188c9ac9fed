"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator

# Bytes of a file's name where the system does not tell, and those that the temporary name beside it has more.
_USUAL, _ADDED = 255, 15


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[str]:
    """Gives the name of an empty file beside ``path`` that takes its place when the block ends well.

    A reader never sees half a file: on an error what was at ``path`` stays as it is and the new file is removed. A
    process that is killed leaves a file that starts with a dot and ends in ``.part``.

    Raises:
        OSError: there is no such directory, it cannot be written, or ``path`` is a directory; it names ``path`` where
            the disk is full.
    """
    check_target(path)
    target = os.path.abspath(os.fspath(path))
    with naming(path, beside=os.path.dirname(target)):
        temporary = beside_of(target)
        try:
            with open(temporary, "xb"):
                pass
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):  # with its directory
                os.unlink(temporary)
            raise


def beside_of(target: str | os.PathLike[str], ending: str = ".part") -> str:
    """A hidden name beside ``target`` that nobody has: known before it is there, it can be removed at any moment."""
    directory, name = os.path.split(os.path.abspath(os.fspath(target)))
    return os.path.join(directory, f".{name}.{secrets.token_hex(4)}{ending}")


@contextlib.contextmanager
def naming(path: str | os.PathLike[str], beside: str | None = None) -> Iterator[None]:
    """In the block, an error of the system that names no file, as of a full disk, is one that names ``path``.

    So does one that names a hidden ``.part`` in the directory ``beside``: the user never heard of it.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or not (error.filename is None or _hidden(error.filename, beside)):
            raise
        raise OSError(error.errno, os.strerror(error.errno), os.fspath(path)) from error


@contextlib.contextmanager
def naming_in(new: str | os.PathLike[str], target: str | os.PathLike[str]) -> Iterator[None]:
    """In the block, an error about the directory ``new`` or a file in it names ``target``, whose place that takes."""
    try:
        yield
    except OSError as error:
        if error.errno is None or not isinstance(error.filename, (str, os.PathLike)):
            raise
        inside = os.path.relpath(error.filename, new)
        if inside.startswith(os.pardir):
            raise
        named = os.fspath(target) if inside == os.curdir else os.path.join(target, inside)
        raise OSError(error.errno, os.strerror(error.errno), named) from error


def _hidden(filename: object, directory: str | None) -> bool:
    """Whether it is a temporary name in the directory."""
    if directory is None or not isinstance(filename, str) or os.path.dirname(filename) != directory:
        return False
    name = os.path.basename(filename)
    return name.startswith(".") and name.endswith(".part")


def remove_directory(path: str | os.PathLike[str]) -> None:
    """Removes a directory and all in it; of a link to one the link alone.

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


def check_target(path: str | os.PathLike[str], name: str | None = None, beside: str = "") -> None:
    """``path`` can be the name of a file: its directory is there and can be written, it is none and not too long.

    Args:
        path: to be written to.
        name: of the argument or flag that it came by, for the message; None: the path alone says what is meant.
        beside: the longest ending of a file that is written beside it, under its name and that.

    Raises:
        OSError: otherwise.
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
    longest = _longest_name(os.path.dirname(target)) - len(os.fsencode(beside))
    if (size := len(os.fsencode(os.path.basename(target)))) > longest:
        raise OSError(f"{owner}: expected the name of a file of at most {longest} bytes, got {size}")


def check_room(directory: str | os.PathLike[str], needed: int, name: str, what: str) -> None:
    """The disk has room: hours of work do not end at a full one that could be seen.

    Args:
        directory: on the disk.
        needed: bytes.
        name: of the argument or the file, for the message; ``what`` needs the room.

    Raises:
        OSError: it has less.
    """
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise OSError(f"{name}: expected {_size(needed)} of room for {what}, got {_size(free)}")


def _size(count: int) -> str:
    """Bytes in the largest unit of which there is at least one."""
    unit, scale = next(((u, s) for u, s in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)) if count >= s), ("", 1))
    return f"{count / scale:.2f} {unit}" if unit else f"{count} bytes"


def _longest_name(directory: str) -> int:
    """Bytes of a file's name there that leave room for the temporary name beside it."""
    try:
        told = os.pathconf(directory, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # not POSIX, or not told
        told = 0
    return (told if told > _ADDED else _USUAL) - _ADDED  # file systems without a limit of their own tell 0 or -1
