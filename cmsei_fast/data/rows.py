"""Rows of a chunked data set read through a memory map of its file."""

from __future__ import annotations

import os
from typing import Any

import numpy as np


class MappedRows:
    """(rows, width) array whose chunks of rows lie in a file; a slice reads only what it covers.

    It holds a memory map of the file and no library's handle, so it survives a fork. It can be pickled, too: the other
    process maps the file again, and refuses a file that has been replaced since.

    Args:
        path: the file.
        shape: (rows, width).
        dtype: of the numbers.
        chunk_rows: rows of a chunk; the last chunk may have fewer.
        chunks: (n,) int64, the byte at which each chunk begins.
    """

    ndim = 2

    def __init__(self, path: str | os.PathLike[str], shape: tuple[int, int], dtype: Any, chunk_rows: int, chunks: Any):
        self.path = os.path.abspath(os.fspath(path))
        self.shape = (int(shape[0]), int(shape[1]))
        self.dtype = np.dtype(dtype)
        self._chunk_rows = int(chunk_rows)
        self._chunks = np.asarray(chunks, dtype=np.int64)
        self._identity = _identity(self.path)
        self._map: np.memmap | None = None
        self._bytes()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_map": None}

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"MappedRows({self.path!r}, shape={self.shape}, dtype={self.dtype})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("copy: expected True or None (rows are copied out of their file), got False")
        return np.array(self[:], dtype=dtype)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """The rows of an index, a slice or an array of indices; read-only where they lie in one chunk.

        Raises:
            IndexError: for an index out of range.
            TypeError: for anything else.
            ValueError: the file has been replaced since it was opened.
        """
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                return self._span(start, max(start, stop))
            rows = np.arange(start, stop, step)
        array = np.asarray(rows)
        if array.dtype == bool and array.shape == self.shape[:1]:
            array = np.nonzero(array)[0]
        if array.dtype.kind not in "iu" and array.size:
            raise TypeError(f"rows: expected an index, a slice or an array of indices, got {type(rows).__name__}")
        array = array.astype(np.int64)
        wrong = (array < -len(self)) | (array >= len(self))
        if wrong.any():
            raise IndexError(f"rows: expected an index from 0 to {len(self) - 1}, got {array[wrong].flat[0]}")
        array = np.where(array < 0, array + len(self), array)
        if array.ndim == 0:
            return self._span(int(array), int(array) + 1)[0]
        out = np.empty((*array.shape, self.shape[1]), dtype=self.dtype)
        for place, row in zip(np.ndindex(array.shape), array.flat, strict=True):
            out[place] = self._span(row, row + 1)[0]
        return out

    def _span(self, start: int, stop: int) -> np.ndarray:
        size = self._chunk_rows
        pieces = [
            self._chunk(chunk)[max(start - chunk * size, 0) : stop - chunk * size]
            for chunk in range(start // size, -(-stop // size) if stop > start else 0)
        ]
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.empty((0, self.shape[1]), dtype=self.dtype)

    def _chunk(self, chunk: int) -> np.ndarray:
        begin = int(self._chunks[chunk])
        size = self._chunk_rows * self.shape[1] * self.dtype.itemsize
        flat = self._bytes()[begin : begin + size]
        if begin % self.dtype.itemsize:
            flat = flat.copy()  # a file that someone else laid out: numbers must not straddle words
        return flat.view(self.dtype).reshape(self._chunk_rows, self.shape[1])

    def _bytes(self) -> np.ndarray:
        if self._map is None:
            if _identity(self.path) != self._identity:
                raise ValueError(f"{self.path}: expected the file that was opened, got one written since then")
            self._map = np.memmap(self.path, dtype=np.uint8, mode="r")
        return self._map.view(np.ndarray)


def _identity(path: str) -> tuple[int, int, int]:
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns
