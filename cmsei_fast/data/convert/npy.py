"""Reads ``.npy`` files without unpickling."""

from __future__ import annotations

import math
import os
import tokenize
from typing import Any, BinaryIO

import numpy as np

# What numpy raises for a head that is none, besides ValueError; the last one of one too deep for Python's parser.
DAMAGED = (EOFError, SyntaxError, TypeError, OverflowError, tokenize.TokenError, RecursionError)
# Of a file that is mapped: nothing is allocated for its numbers, so that this too is the parser's.
DAMAGED_HEAD = (*DAMAGED, MemoryError)
_MOST_SAID = 160


def said(error: BaseException) -> str:
    """The error's message in one line of at most 160 characters: numpy quotes a whole damaged head in its own."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split()) or type(error).__name__
    return text if len(text) <= _MOST_SAID else f"{text[: _MOST_SAID - 1]}…"


def read_head(stream: BinaryIO, size: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype that the head of a ``.npy`` file tells; its numbers are read after this, where memory may end.

    Args:
        stream: of the file, at its begin; behind the head afterwards.
        size: of the file in bytes.

    Raises:
        ValueError: no head.
        EOFError: it tells of more numbers than there are.
        SyntaxError, TypeError, OverflowError, tokenize.TokenError, RecursionError: a damaged head.
    """
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, _, dtype = read(stream)
    except MemoryError:  # of Python's parser
        raise RecursionError("its head is nested too deeply") from None
    except ValueError as error:
        if not str(error).startswith("malformed node"):  # of Python's parser, with an address in the memory
            raise
        raise SyntaxError("its head is no literal") from None
    expected = stream.tell() + math.prod(shape) * dtype.itemsize
    if expected > size and not dtype.hasobject:
        raise EOFError(f"expected {expected} bytes (as its head tells), got {size}")
    return shape, dtype


def map_npy(path: str | os.PathLike[str], rank: int) -> np.ndarray:
    """A memory map of the numbers in a ``.npy`` file.

    Raises:
        OSError: the file cannot be opened.
        ValueError: naming the file: no ``.npy`` file, truncated, of Python objects, not numbers, of another
            rank, or empty.
    """
    try:
        with open(path, "rb") as file:
            read_head(file, os.fstat(file.fileno()).st_size)
        array = np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        if "Python objects" in str(error):
            raise ValueError(f"{path}: expected an array of numbers, got pickled Python objects (not read)") from None
        raise ValueError(f"{path}: truncated or damaged .npy file: {said(error)}") from error
    except DAMAGED as error:
        raise ValueError(f"{path}: truncated or damaged .npy file: {said(error)}") from error
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{path}: expected numbers, got {array.dtype}")
    if array.ndim != rank or 0 in array.shape:
        raise ValueError(f"{path}: expected a full array of {rank} dimensions, got shape {array.shape}")
    return array
