"""A score matrix in a file, which gets its name once every score is there; a run that was killed can be continued.

Scores go to ``NAME.npy.part``. ``NAME.npy.record`` lists the tiles in it (``score_record.py``), each added after its
scores have reached the disk.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .data.files import check_room, check_target, errors_naming, replacing
from .distributed import ProcessLost, Team
from .fingerprint import differences, fingerprint
from .score_record import ENDING, PART, Marks, ScoreRecord
from .tiling import Grid, ScoreTiles

fcntl: Any = None
with contextlib.suppress(ImportError):  # not on Windows; the package imports all the same
    import fcntl

# Finished tiles are marked when this much time has passed, in seconds: what a killed run has to do again.
MARK_EVERY = 1.0


def write_scores(
    tiles: ScoreTiles, path: str | os.PathLike[str], resume: bool, progress: bool, team: Team | None = None
) -> tuple[np.ndarray, int]:
    """The score matrix as a read-only memmap of the file ``path``, and the pairs that this run has scored.

    docs/large-runs.md says what is guaranteed.

    Args:
        tiles: what is scored.
        path: name of the file, ends in ``.npy``; one that is there is replaced when the new one is complete.
        resume: leave out the tiles that an earlier run has finished, where ``path.part`` and ``path.record`` are there.
        progress: as :func:`cmsei_fast.score_matrix` has it.
        team: the processes that share the tiles; they write to one file. None: this process alone.

    Raises:
        ValueError: for another name, a record that cannot be read, or a part that was begun with another problem.
        OSError: where the file cannot be written, another run writes it, or the disk has no room.
        ProcessLost: where another process of the team failed or is lost.
    """
    team = Team(None, tiles) if team is None else team
    if 0 in tiles.shape:
        with team.together():
            if team.rank == 0:
                _write_empty(check_path(path), tiles)
        return _opened(path), 0
    file = ScoreFile(path, tiles, team.rank)
    bar = None
    try:
        with team.together():
            if team.rank == 0:
                file.begin(resume)
        file.done = _any(team, file.done)
        with team.together():
            if team.rank > 0:
                file.join()
        wanted = ~file.done
        team.deal(wanted)
        bar = team.bar(progress, tiles.shape[0] * tiles.shape[1], tiles.grid.pairs(file.done))
        team.run(wanted, file.write, bar)
        with team.together():
            file.mark()
        file.done = _any(team, file.done)
        with team.together():
            if team.rank == 0:
                file.finish()
        return _opened(path), tiles.grid.pairs(wanted)
    except ProcessLost as error:
        if not file.is_open:
            raise
        raise ProcessLost(f"{error}; what is finished is in {file.part}, and resume=True goes on with it") from error
    finally:
        file.close()
        if bar is not None:
            bar.close()


def check_path(path: str | os.PathLike[str]) -> Path:
    """The path of a score matrix.

    Raises:
        ValueError: for a name that does not end in ``.npy``; OSError: where no file can have it.
    """
    target = Path(path)
    if target.suffix != ".npy":
        raise ValueError(f"out: expected the name of a file that ends in .npy, got {os.fspath(path)!r}")
    check_target(target, suffix=ENDING)
    return target


class ScoreFile:
    """The part and the record of one matrix: ``begin``, ``write`` tiles that are not ``done``, then ``finish``.

    After ``close`` without ``finish`` both are left, with a mark for each tile that was written. Of several processes
    the first begins and finishes, the others ``join``; each marks its tiles in a record of its own.
    """

    def __init__(self, path: str | os.PathLike[str], tiles: ScoreTiles, rank: int = 0) -> None:
        self.path = check_path(path)
        self.part = self.path.with_name(f"{self.path.name}{PART}")
        self._record = ScoreRecord(self.path.with_name(f"{self.path.name}{ENDING}"), rank)
        self._problems, self._grid, self._shape = tiles.problems, tiles.grid, tiles.shape
        self._dtype = np.dtype(str(tiles.dtype).removeprefix("torch."))
        head = io.BytesIO()
        kind = {"descr": self._dtype.str, "fortran_order": False, "shape": self._shape}
        np.lib.format.write_array_header_1_0(head, kind)
        self._head = head.getvalue()
        self.done = np.zeros(self._grid.shape, dtype=bool)  # (I, J)
        self._marked = time.monotonic()
        self._file = -1

    @property
    def is_open(self) -> bool:
        """Whether the part is open."""
        return self._file >= 0

    def begin(self, resume: bool) -> None:
        """Makes the part and the record, or takes over what is there of the same problem; sets ``done``."""
        description = {"problem": fingerprint(self._problems), "grid": _cuts(self._grid)}
        marks, part_exists = (self._earlier_marks(description) if resume else {}), self.part.exists()
        if marks and not part_exists:  # killed after the part was renamed to the complete file
            self._verify(marks, self.path)
            if self.done.all():
                return
            self.done[:] = False
        self._file = self._open()
        if marks and part_exists:
            self._verify(marks, self.part)
        else:
            self._record.remove()
            self._renew()
        try:
            self._reserve()
        except OSError:
            if not part_exists:
                self.part.unlink()
            raise
        self._record.begin(description, {(i, j): marks[i, j] for i, j in np.argwhere(self.done).tolist()})

    def join(self) -> None:
        """Opens the part that the first process made, unless all tiles are done."""
        if not self.done.all():
            self._file = os.open(self.part, os.O_RDWR)
            self._record.join()

    def write(self, i: int, j: int, tile: Tensor) -> int:
        """Takes a tile's scores (images, captions), to be marked within ``MARK_EVERY`` seconds; gives their number."""
        rows, columns = self._grid.rows(i), self._grid.columns(j)
        values = np.ascontiguousarray(tile.cpu().numpy(), dtype=self._dtype)
        whole = values.shape[1] == self._shape[1]
        with errors_naming(self.part):
            for number, row in enumerate([values] if whole else values):
                _write(self._file, row, self._at(rows.start + number, columns.start))
        self._record.add(i, j, zlib.crc32(values.data))
        self.done[i, j] = True
        if time.monotonic() - self._marked >= MARK_EVERY:
            self.mark()
        return values.size

    def mark(self) -> None:
        """Marks what was written as finished, once it is on the disk."""
        if self._record.added:
            with errors_naming(self.part):
                os.fsync(self._file)
            self._record.write()
        self._marked = time.monotonic()

    def finish(self) -> None:
        """Gives the complete matrix its name.

        Raises:
            RuntimeError: if a tile was not written.
        """
        if not self.done.all():
            raise RuntimeError(f"{self.part}: expected all tiles, got {self.done.sum()} of {self.done.size}")
        if self._file >= 0:
            self.mark()
            os.replace(self.part, self.path)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        self._record.remove()

    def close(self) -> None:
        """Marks what was written, as far as the disk takes it, and closes the files."""
        try:
            if self._record.opened:
                with contextlib.suppress(OSError), contextlib.closing(self._record):
                    self.mark()
        finally:
            if self._file >= 0:
                os.close(self._file)
            self._file = -1

    def _at(self, row: int, column: int) -> int:
        """Place of a score in the file, in bytes."""
        return len(self._head) + (row * self._shape[1] + column) * self._dtype.itemsize

    def _earlier_marks(self, description: dict[str, Any]) -> Marks:
        """CRC-32 of the tiles that an earlier run of the same problem has marked; empty where there was none."""
        found, marks = self._record.read()
        if not found:
            return {}
        different = differences(found["problem"], description["problem"])
        if not different and found["grid"] != description["grid"]:
            different = ["grid: expected the same tiles, got others"]
        if different and self.part.exists():
            raise ValueError(
                f"resume: expected the problem that {self.part} was begun with, got another "
                f"({'; '.join(different)}); resume=False starts afresh"
            )
        if different:  # a record that was left beside a complete file
            return {}
        return {(i, j): crc for (i, j), crc in marks.items() if i < self.done.shape[0] and j < self.done.shape[1]}

    def _verify(self, marks: Marks, path: Path) -> None:
        """``done`` are those of the marked tiles whose scores in the file have the CRC-32 of their mark."""
        size = self._at(*self._shape) - self._shape[1] * self._dtype.itemsize
        if not path.exists() or path.stat().st_size != size:
            return
        scores = np.memmap(path, self._dtype, "r", len(self._head), self._shape)
        for (i, j), crc in marks.items():
            tile = np.ascontiguousarray(scores[self._grid.rows(i), self._grid.columns(j)])
            self.done[i, j] = zlib.crc32(tile.data) == crc

    def _open(self) -> int:
        """The part, open and locked against another run."""
        if fcntl is None:
            raise OSError("out: expected an array, since files of scores need a POSIX system, got a name")
        while True:
            file = os.open(self.part, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                raise BlockingIOError(f"{self.part}: expected no other run that writes it, got one") from None
            except OSError:  # a file system without locks
                return file
            if self.part.exists() and os.path.samestat(os.fstat(file), self.part.stat()):
                return file
            os.close(file)  # another run has just given it its name

    def _renew(self) -> None:
        """A part of its own: a process that outlives its run may still write to the one that was there."""
        old, self._file = self._file, -1  # so that it is closed once, though another run takes the name
        try:
            self.part.unlink()
            self._file = self._open()
        finally:
            os.close(old)

    def _reserve(self) -> None:
        """The header and the full size, sparse.

        Raises:
            OSError: if the disk has less room than the scores that are missing need.
        """
        size = self._at(self._shape[0] - 1, self._shape[1])
        needed = size - os.fstat(self._file).st_blocks * 512
        check_room(self.path.parent, needed, "out", str(self.part))
        with errors_naming(self.part):
            _write(self._file, np.frombuffer(self._head, np.uint8), 0)
            os.ftruncate(self._file, size)


def _write(file: int, values: np.ndarray, at: int) -> None:
    left = values.data.cast("B")
    while left:
        count = os.pwrite(file, left, at)
        left, at = left[count:], at + count


def _cuts(grid: Grid) -> dict[str, list[int]]:
    return {"images": grid.image_cuts.tolist(), "captions": grid.caption_cuts.tolist()}


def _any(team: Team, done: np.ndarray) -> np.ndarray:
    """(I, J) bool: what is done in any of the processes."""
    count = torch.from_numpy(done.astype(np.int32))
    team.sum_(count)
    found: np.ndarray = count.numpy() > 0
    return found


def _write_empty(path: Path, tiles: ScoreTiles) -> None:
    scores = np.empty(tiles.shape, dtype=str(tiles.dtype).removeprefix("torch."))
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, scores, allow_pickle=False)


def _opened(path: str | os.PathLike[str]) -> np.ndarray:
    scores: np.ndarray = np.load(path, allow_pickle=False, mmap_mode="r")
    return scores
