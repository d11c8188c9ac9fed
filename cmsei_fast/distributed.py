"""A run over the tiles, alone or shared by the processes of a torch.distributed group.

Every process makes the same call. Each scores a run of tiles with an equal share of the work, and every few tiles all
meet in one small exchange: how far each is, and whether one failed. So an error in one process ends all of them, and
nobody waits longer than that for a lost process.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from .exchange import Exchange, ProcessLost
from .progress import Progress
from .tiling import ScoreTiles

# Tiles of one process between two exchanges: at most half a minute, as a tile takes half a second or less.
TILES_A_ROUND = 64


def dealt(work: np.ndarray, size: int) -> np.ndarray:
    """The process, of so many, of each piece of work, in order: a run of about the same work for each; int64."""
    middle = np.cumsum(work).reshape(work.shape) - work / 2
    return np.minimum(middle * size / max(work.sum(), 1.0), size - 1).astype(np.int64)


class Team(Exchange):
    """The processes of a group, or one process without a group.

    Args:
        group: of torch.distributed, with NCCL or gloo; None is this process alone.
        stream: what is scored. Its tiles are dealt to the processes.

    Raises:
        TypeError: for another group, or one that this process is not in.
    """

    def __init__(self, group: Any, stream: ScoreTiles) -> None:
        super().__init__(group, stream.device)
        self._stream = stream
        self._dealt = np.zeros(stream.grid.shape, dtype=np.int64)  # (I, J) process of each tile

    def agree(self, **more: Any) -> None:
        """Checks that every process makes the same call, by what can be known without reading the features.

        Raises:
            ValueError: in every process, naming what differs and in which.
        """
        if self.alone:
            return
        grid = self._stream.grid
        call: dict[str, Any] = {"images and captions": self._stream.shape}
        for items in (self._stream.problems[0].images, self._stream.problems[0].captions):
            call[f"{items.item}_lengths"] = zlib.crc32(np.ascontiguousarray(items.row_offsets).tobytes())
        for name in ("scorer", "engine", "precision"):
            call[name] = [getattr(problem, name) for problem in self._stream.problems]
        call |= {"tiles": zlib.crc32(np.concatenate([grid.image_cuts, grid.caption_cuts]).tobytes()), **more}
        self.same(call)

    def deal(self, wanted: np.ndarray) -> None:
        """Deals tiles (I, J) bool: row by row, each process a run of about the same work."""
        self._dealt = dealt(np.where(wanted, self.work(), 0.0), self.size)

    def work(self) -> np.ndarray:
        """(I, J) inner products that each tile takes: regions with words, and both sides' items within themselves."""
        grid, problem = self._stream.grid, self._stream.problems[0]
        rows, squares = [], []
        for items, cuts in ((problem.images, grid.image_cuts), (problem.captions, grid.caption_cuts)):
            lengths = np.diff(items.row_offsets).astype(np.float64)
            total, square = (np.concatenate([[0.0], np.cumsum(x)])[cuts] for x in (lengths, lengths**2))
            rows.append(np.diff(total))
            squares.append(np.diff(square))
        out: np.ndarray = rows[0][:, None] * rows[1] + squares[0][:, None] + squares[1]
        return out

    def run(
        self,
        wanted: np.ndarray,
        take: Callable[[int, int, Any], int],
        bar: Progress | None,
        source: Callable[[np.ndarray], Iterator[tuple[int, int, Any]]] | None = None,
    ) -> None:
        """Gives this process's share of the tiles (I, J) bool to ``take``, which returns the pairs that are done by it.

        Args:
            wanted: it may differ between processes in the tiles of the other ones.
            take: called with (i, j, scores).
            bar: of the process that shows the progress of all.
            source: what gives the tiles, instead of the stream's scores.

        Raises:
            ProcessLost: if another process failed or is lost.
        """
        mine = wanted & (self._dealt == self.rank)
        tiles = (source or self._stream.tiles)(mine)
        self.go_through(int(mine.sum()), TILES_A_ROUND, (take(*tile) for tile in tiles), bar)

    def go_through(self, most: int, a_round: int, steps: Iterator[int], bar: Progress | None) -> None:
        """Goes through this process's steps, and meets the other processes after so many of them.

        Args:
            most: steps that there are, or more.
            a_round: steps between two meetings, the same in every process.
            steps: each gives the pairs that are done by it.
            bar: of the process that shows the progress of all.

        Raises:
            ProcessLost: if another process failed or is lost.
        """
        own = torch.tensor([-(-most // a_round)], device="cpu")
        meetings = int(torch.cat(self.gather(own)).max())
        pairs = count = 0
        try:
            for done in steps:
                pairs += done
                count += 1
                if self.alone or count % a_round == 0:
                    self._meet(pairs, bar)
                    pairs, meetings = 0, meetings - 1
            while meetings > 0 and not self.alone:
                self._meet(pairs, bar)
                pairs, meetings = 0, meetings - 1
        except ProcessLost:
            raise
        except BaseException as error:
            self.exchange(0, error)
            raise

    def bar(self, progress: bool, total: int, done: int = 0) -> Progress | None:
        """What shows the progress, in the first process."""
        return Progress(total, done) if progress and self.rank == 0 else None

    def _meet(self, pairs: int, bar: Progress | None) -> None:
        """Tells the other processes of the pairs that are done since the last time, and shows those of all."""
        done = self.exchange(pairs)
        if bar is not None and done:
            bar.update(done)
