"""``.npy`` files, never unpickled."""

from __future__ import annotations

import os
import tokenize

import numpy as np

# What numpy raises for a head that is none, besides ValueError; the last two of one too deep for Python's parser.
DAMAGED = (EOFError, SyntaxError, TypeError, OverflowError, tokenize.TokenError, MemoryError, RecursionError)
_MOST_SAID = 160


def said(error: BaseException) -> str:
    """The error's message in one line of at most 160 characters: numpy quotes a whole damaged head in its own."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split()) or type(error).__name__
    return text if len(text) <= _MOST_SAID else f"{text[: _MOST_SAID - 1]}…"


def map_npy(path: str | os.PathLike[str], rank: int) -> np.ndarray:
    """A memory map of the numbers in a ``.npy`` file.

    Raises:
        OSError: the file cannot be opened.
        ValueError: naming the file: no ``.npy`` file, truncated, of Python objects, not numbers, of another
            rank, or empty.
    """
    try:
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
