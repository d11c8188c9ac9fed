"""Records which split a saved score matrix belongs to: ``NAME.npy.split``, JSON beside the matrix ``NAME.npy``.

The file holds the split's name, checksums of its images and captions, the models, and a checksum of the matrix: if
another matrix has replaced the one that it was written for, the file is ignored.
"""

from __future__ import annotations

import json
import os
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from ..data import Split

ENDING = ".split"  # appended to the name of the matrix
FORMAT = {"format": "cmsei_fast split of scores", "version": 1}
_PARTS = {"images": "images", "captions": "captions", "caption_to_image": "images of the captions"}


def write_scored_split(path: str, split: Split, name: str, by: Sequence[str]) -> None:
    """Writes the file beside the complete matrix ``path``.

    Args:
        path: the ``.npy`` file.
        split: what was scored; ``name`` its path.
        by: the models or the scorer.

    Raises:
        OSError: the file cannot be written.
    """
    import numpy as np

    from ..data.json_object import write_json

    scores = np.load(path, mmap_mode="r", allow_pickle=False)
    record = {**FORMAT, "split": name, "by": list(by), **_identity(split), "scores": _checksum(scores)}
    write_json(path + ENDING, record)


def scored_by(paths: Sequence[str], split: Split, name: str) -> list[str] | None:
    """Checks that matrices belong to the split, and says what scored each.

    None if a matrix has no such file beside it, or one that was written for another matrix.

    Args:
        paths: the ``.npy`` files of the matrices.
        split: the split that they should belong to; ``name`` its path.

    Raises:
        ValueError: a matrix belongs to another split, naming what differs.
    """
    import numpy as np

    found = []
    for path in paths:
        record = _read(path + ENDING)
        if record is None or record.get("scores") != _checksum(np.load(path, mmap_mode="r", allow_pickle=False)):
            continue
        different = [title for part, title in _PARTS.items() if record.get(part) != _identity(split)[part]]
        if different:
            raise ValueError(
                f"--split: expected the split that {path} is of, {record.get('split')} (so {path}{ENDING} says), "
                f"got {name} with other {' and '.join(different)}"
            )
        found.append(" + ".join(map(str, record.get("by", ()))))
    return found if len(found) == len(paths) else None


def _identity(split: Split) -> dict[str, Any]:
    from ..data.identity import identity

    found = identity(split)
    return {part: found[part] for part in _PARTS}


def _checksum(scores: np.ndarray) -> str:
    """A checksum: dtype, shape and a CRC-32 of rows spread over the matrix."""
    from ..fingerprint import sample_of

    crc = 0
    for i in sample_of(len(scores)):
        crc = zlib.crc32(scores[i].tobytes(), crc)
    return f"{scores.dtype.name} {scores.shape[0]} × {scores.shape[1]}, {crc:08x}"


def _read(path: str) -> dict[str, Any] | None:
    """The record; None if the file is missing or of another format."""
    if not os.path.isfile(path):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            record = json.load(file)
    except (OSError, ValueError, RecursionError):
        return None
    ours = isinstance(record, dict) and {name: record.get(name) for name in FORMAT} == FORMAT
    return record if ours else None
