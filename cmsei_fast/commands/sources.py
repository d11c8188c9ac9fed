"""Finds the splits, images, captions and scorers that command lines name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..scorer import PairScorer

if TYPE_CHECKING:
    from ..data import Split

SPLIT_ENDINGS = (".h5", ".hdf5")
_CONVERTIBLE = (".npy", ".npz", ".tsv", ".txt", ".json")  # formats that cmsei-fast convert reads
SCORERS = {
    "scan_t2i": PairScorer.scan_t2i,
    "scan_i2t": PairScorer.scan_i2t,
    "cmsei": PairScorer.cmsei,
}


def load_split(path: str) -> Split:
    """Loads a split from its HDF5 file, or from JSON lines of scene graphs.

    Raises:
        OSError: the file cannot be opened.
        ValueError: naming the file and what is wrong with it.
    """
    from ..data import open_split, read_scenes, split_from_scenes

    if os.path.isdir(path) or path.endswith(_CONVERTIBLE):
        got = "a directory" if os.path.isdir(path) else os.path.splitext(path)[1]
        raise ValueError(f"{path}: expected .h5 (cmsei-fast convert makes one) or .jsonl, .jsonl.gz, got {got}")
    return open_split(path) if is_split_file(path) else split_from_scenes(read_scenes(path))


def is_split_file(path: str) -> bool:
    """Whether the file is HDF5, by its name or its first bytes; any other is read as scene graphs."""
    if path.endswith(SPLIT_ENDINGS):
        return True
    from ..data.layout import SIGNATURE

    try:
        with open(path, "rb") as file:
            return file.read(len(SIGNATURE)) == SIGNATURE
    except OSError:
        return False


def find_image(split: Split, image: str) -> int:
    """The index of an image that ``--image`` names, or gives by its index.

    Raises:
        ValueError: the split has no such image.
    """
    if image in split.ids:
        return split.ids.index(image)
    if image.isascii() and image.isdigit() and int(image) < len(split):
        return int(image)
    names = f"a name in the split ({split.ids[0]} is the first)"
    raise ValueError(f"--image: expected {names} or an index from 0 to {len(split) - 1}, got {image}")


def read_captions(flag: str, path: str) -> tuple[str, ...]:
    """Reads the captions of a text file that a flag names, one per line.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming the file, if it is not UTF-8.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{flag}: expected a text file, got {path} ({why_no_file(path)})")
    try:
        # Not splitlines: a caption may hold one of Unicode's other line ends.
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text, got {error}") from None
    return tuple(lines[:-1] if lines[-1] == "" else lines)


def why_no_file(path: str) -> str:
    """Says what is at the path instead of a file."""
    return "a directory" if Path(path).is_dir() else "no such file"


def parse_scorer(value: Any) -> PairScorer:
    """Makes a scorer from the name of a preset or from ``PairScorer.to_dict()``.

    Raises:
        ValueError: for neither.
    """
    if isinstance(value, str) and value in SCORERS:
        return SCORERS[value]()
    if isinstance(value, dict):
        try:
            return PairScorer.from_dict(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"scorer: {error}") from None
    raise ValueError(f"scorer: expected one of {', '.join(SCORERS)} or the fields of a PairScorer, got {value!r:.60}")
