"""Rows that are read from their source an image at a time, when they are sliced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class ImageRows:
    """(ΣR, width) array, sliced by rows; it holds no more than the last image it read.

    Args:
        offsets: (N + 1,) int64, rows before each image.
        width: of a row.
        read: gives the (R, width) rows of an image.
        place: names the file in which an image's rows lie, for errors.
        dtype: of the rows returned, whatever the source has.
    """

    ndim = 2

    def __init__(
        self,
        offsets: np.ndarray,
        width: int,
        read: Callable[[int], np.ndarray],
        place: Callable[[int], str],
        dtype: Any = np.float32,
    ):
        self.shape = (int(offsets[-1]), width)
        self.dtype = np.dtype(dtype)
        self._offsets = offsets
        self._read = read
        self.place = place
        self._last: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise ValueError(f"rows: expected a slice of step 1, got {step}")
        out = np.empty((max(stop - start, 0), self.shape[1]), dtype=self.dtype)
        image = int(np.searchsorted(self._offsets, start, side="right")) - 1
        while start < stop:
            begin, end = int(self._offsets[image]), int(self._offsets[image + 1])
            upto = min(stop, end)
            with np.errstate(over="ignore"):  # infinities are refused where the rows are written
                out[len(out) - (stop - start) :][: upto - start] = self._image(image)[start - begin : upto - begin]
            start, image = upto, image + 1
        return out

    def _image(self, image: int) -> np.ndarray:
        if self._last is None or self._last[0] != image:
            self._last = image, self._read(image)
        return self._last[1]
