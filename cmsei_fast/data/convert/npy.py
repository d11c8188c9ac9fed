"""Reads ``.npy`` files without unpickling."""

from __future__ import annotations

import math
import os
import tokenize
from typing import Any, BinaryIO

import numpy as np

# What numpy raises for a damaged head, besides ValueError; RecursionError where it is too deep for Python's parser.
DAMAGED = (EOFError, SyntaxError, TypeError, OverflowError, tokenize.TokenError, RecursionError)
# For a mapped file nothing is allocated for the numbers, so a MemoryError too comes from the parser.
DAMAGED_HEAD = (*DAMAGED, MemoryError)
_MAX_MESSAGE = 160


def short_message(error: BaseException) -> str:
    """Shortens an error's message to one line of at most 160 characters: numpy quotes a whole damaged head."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split()) or type(error).__name__
    return text if len(text) <= _MAX_MESSAGE else f"{text[: _MAX_MESSAGE - 1]}…"


def read_head(stream: BinaryIO, size: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Reads shape and dtype from the head of a ``.npy`` file, without allocating memory for its numbers.

    Args:
        stream: the file at its beginning; afterwards it is behind the head.
        size: bytes of the file.

    Raises:
        ValueError: there is no head.
        EOFError: the head announces more numbers than there are.
        SyntaxError, TypeError, OverflowError, tokenize.TokenError, RecursionError: a damaged head.
    """
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, _, dtype = read(stream)
    except MemoryError:  # from Python's parser
        raise RecursionError("its head is nested too deeply") from None
    except ValueError as error:
        if not str(error).startswith("malformed node"):  # from Python's parser, with a memory address in it
            raise
        raise SyntaxError("its head is no literal") from None
    expected = stream.tell() + math.prod(shape) * dtype.itemsize
    if expected > size and not dtype.hasobject:
        raise EOFError(f"expected {expected} bytes (as its head tells), got {size}")
    return shape, dtype


def map_npy(path: str | os.PathLike[str], rank: int) -> np.ndarray:
    """Maps the numbers of a ``.npy`` file into memory.

    Raises:
        OSError: the file cannot be opened.
        ValueError: naming the file: not a ``.npy`` file, truncated, Python objects, not numbers, another rank, or
            empty.
    """
    try:
        with open(path, "rb") as file:
            read_head(file, os.fstat(file.fileno()).st_size)
        array = np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        if "Python objects" in str(error):
            raise ValueError(f"{path}: expected an array of numbers, got pickled Python objects (not read)") from None
        raise ValueError(f"{path}: truncated or damaged .npy file: {short_message(error)}") from error
    except DAMAGED as error:
        raise ValueError(f"{path}: truncated or damaged .npy file: {short_message(error)}") from error
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{path}: expected numbers, got {array.dtype}")
    if array.ndim != rank or 0 in array.shape:
        raise ValueError(f"{path}: expected a full array of {rank} dimensions, got shape {array.shape}")
    return array
