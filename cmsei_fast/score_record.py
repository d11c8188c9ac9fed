"""The record beside a score matrix that is being written: which of its tiles are finished.

``NAME.npy.record`` begins with a line of JSON: the format's name and version, the problem's fingerprint and the grid of
tiles. Then comes a line ``"i j crc"`` for each finished tile, with the CRC-32 of its scores in hexadecimal. Where
several processes write, all but the first write to ``NAME.npy.record.RANK``, without the line of JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .data.files import errors_naming, replacing

FORMAT = {"format": "cmsei_fast score record", "version": 1}

_MARK = re.compile(rb"(\d+) (\d+) ([0-9a-f]{8})")

PART, ENDING = ".part", ".record"  # after the name of the matrix: what is there of it, and the record

Marks = dict[tuple[int, int], int]  # CRC-32 of the scores of each finished tile (i, j)


class ScoreRecord:
    """The record of one matrix: ``read`` an earlier run's, ``begin`` or ``join`` it, ``add`` tiles and ``write`` marks.

    Args:
        path: of the record.
        rank: of this process among those that write the matrix.
    """

    def __init__(self, path: Path, rank: int) -> None:
        self.path = path
        self._own = path if rank == 0 else path.with_name(f"{path.name}.{rank}")
        self._added: list[str] = []
        self._journal: Any = None

    @property
    def opened(self) -> bool:
        """Whether this process has its record open."""
        return self._journal is not None

    def read(self) -> tuple[dict[str, Any], Marks]:
        """The first line and the marks of all processes that an earlier run has left; both empty where none has.

        Raises:
            ValueError: for another file under that name.
        """
        if not self.path.exists():
            return {}, {}
        head, *lines = self.path.read_bytes().split(b"\n")
        lines += [line for other in self._others() for line in other.read_bytes().split(b"\n")]
        marks = (_MARK.fullmatch(line) for line in lines)  # not the line that was being written in that moment
        return _read_head(head, self.path), {(int(m[1]), int(m[2])): int(m[3], 16) for m in marks if m}

    def begin(self, description: Mapping[str, Any], marks: Marks) -> None:
        """Writes the record anew, with the marks that hold, and opens it; those of other processes are removed."""
        lines = [_line(i, j, crc) for (i, j), crc in marks.items()]
        with replacing(self.path) as temporary:
            Path(temporary).write_text(json.dumps({**FORMAT, **description}) + "\n" + "".join(lines), encoding="utf-8")
        for other in self._others():
            other.unlink()
        self.join()

    def join(self) -> None:
        """Opens this process's own record."""
        self._journal = open(self._own, "ab", buffering=0)  # noqa: SIM115 - closed by close

    def add(self, i: int, j: int, crc: int) -> None:
        """Notes a tile, to be marked as finished by :meth:`write`."""
        self._added.append(_line(i, j, crc))

    @property
    def added(self) -> bool:
        """Whether tiles were noted that are not marked yet."""
        return bool(self._added)

    def write(self) -> None:
        """Marks the tiles that were noted; their scores are on the disk."""
        left = memoryview("".join(self._added).encode())
        with errors_naming(self.path):
            while left:  # a disk that is nearly full takes a part
                left = left[self._journal.write(left) :]
        self._added.clear()

    def remove(self) -> None:
        """Removes the records of all processes, the first one's last."""
        for other in self._others():
            other.unlink()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the file; what was not written is not marked."""
        if self._journal is not None:
            self._journal.close()
        self._journal = None

    def _others(self) -> list[Path]:
        """Records of the other processes."""
        numbered = re.compile(re.escape(self.path.name) + r"\.\d+")
        return sorted(path for path in self.path.parent.iterdir() if numbered.fullmatch(path.name))


def _line(i: int, j: int, crc: int) -> str:
    return f"{i} {j} {crc:08x}\n"


def _read_head(line: bytes, record: Path) -> dict[str, Any]:
    try:
        found = json.loads(line)
        if {k: found[k] for k in FORMAT} == FORMAT and isinstance(found["problem"], dict) and "grid" in found:
            return found
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    expected = f"a {FORMAT['format']} of version {FORMAT['version']}"
    raise ValueError(f"resume: expected {record} to be {expected}, got another file; resume=False starts afresh")
