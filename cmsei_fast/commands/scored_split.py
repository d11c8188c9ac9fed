"""Which split a saved score matrix is of: ``NAME.npy.split``, JSON beside the matrix ``NAME.npy``.

It has the split's name and what tells its images and captions from others, the models, and a mark of the matrix: where
another matrix has taken the place of the one it was written for, it says nothing.
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

ENDING = ".split"  # after the name of the matrix
FORMAT = {"format": "cmsei_fast split of scores", "version": 1}
_PARTS = {"images": "images", "captions": "captions", "caption_to_image": "images of the captions"}


def write_scored_split(path: str, split: Split, name: str, by: Sequence[str]) -> None:
    """Writes of which split the matrix ``path`` is, which is complete.

    Args:
        path: of the ``.npy`` file.
        split: that was scored; ``name`` its path.
        by: what scored it.

    Raises:
        OSError: the file cannot be written.
    """
    import numpy as np

    from ..data.json_object import write_json

    scores = np.load(path, mmap_mode="r", allow_pickle=False)
    record = {**FORMAT, "split": name, "by": list(by), **_identity(split), "scores": _mark(scores)}
    write_json(path + ENDING, record)


def scored_by(paths: Sequence[str], split: Split, name: str) -> list[str] | None:
    """What scored the split for each of some matrices, where the files beside them say that they are of this split.

    None where one has no such file, or one that was written for another matrix.

    Args:
        paths: of the ``.npy`` files, each a matrix.
        split: that the scores are taken to be of; ``name`` its path.

    Raises:
        ValueError: one is of another split, naming what differs.
    """
    import numpy as np

    found = []
    for path in paths:
        record = _read(path + ENDING)
        if record is None or record.get("scores") != _mark(np.load(path, mmap_mode="r", allow_pickle=False)):
            continue
        different = [told for part, told in _PARTS.items() if record.get(part) != _identity(split)[part]]
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


def _mark(scores: np.ndarray) -> str:
    """Dtype, shape and a CRC-32 of rows spread over the matrix."""
    from ..fingerprint import sample_of

    crc = 0
    for i in sample_of(len(scores)):
        crc = zlib.crc32(scores[i].tobytes(), crc)
    return f"{scores.dtype.name} {scores.shape[0]} × {scores.shape[1]}, {crc:08x}"


def _read(path: str) -> dict[str, Any] | None:
    """The record; None where there is none, or another file."""
    if not os.path.isfile(path):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            record = json.load(file)
    except (OSError, ValueError, RecursionError):
        return None
    ours = isinstance(record, dict) and {name: record.get(name) for name in FORMAT} == FORMAT
    return record if ours else None
