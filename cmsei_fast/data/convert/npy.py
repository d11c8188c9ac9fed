"""``.npy`` files, never unpickled."""

from __future__ import annotations

import os
import tokenize

import numpy as np

# What numpy raises for a head that is none, besides ValueError.
DAMAGED = (EOFError, SyntaxError, TypeError, OverflowError, tokenize.TokenError)


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
        raise ValueError(f"{path}: truncated or damaged .npy file: {error}") from error
    except DAMAGED as error:
        raise ValueError(f"{path}: truncated or damaged .npy file: {error}") from error
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{path}: expected numbers, got {array.dtype}")
    if array.ndim != rank or 0 in array.shape:
        raise ValueError(f"{path}: expected a full array of {rank} dimensions, got shape {array.shape}")
    return array
