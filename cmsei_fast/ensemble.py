"""The mean of several models' scores, tile by tile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from .tiling import Problem, TileStream, make_grid


class MeanStream:
    """Tiles of the mean of several problems' scores of the same images and captions, on the grid of the first.

    Args:
        problems: at least one; for one this is a :class:`TileStream`.

    Raises:
        ValueError: if they have not all as many images and captions.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        self.shape, self.device = problems[0].shape, problems[0].device
        self.dtype = problems[0].dtype
        self.grid = make_grid(problems[0])
        self._streams = [TileStream(problem, self.grid) for problem in problems]
        for number, problem in enumerate(problems):
            if problem.shape != self.shape:
                raise ValueError(f"problems[{number}]: expected {self.shape} images and captions, got {problem.shape}")

    def tiles(self, wanted: np.ndarray | None = None) -> Iterator[tuple[int, int, Tensor]]:
        """As :meth:`TileStream.tiles`."""
        for parts in zip(*(stream.tiles(wanted) for stream in self._streams), strict=True):
            i, j, total = parts[0]
            for _, _, tile in parts[1:]:
                total = total + tile
            yield i, j, total / len(parts)
