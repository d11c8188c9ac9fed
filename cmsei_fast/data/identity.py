"""Fingerprints of splits and vocabularies, to check that a resumed run gets those that it began with."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..fingerprint import sample_of
from .split import Split
from .vocabulary import Vocabulary


def identity(split: Split) -> dict[str, Any]:
    """Counts and CRC-32s for JSON: of names, captions and their images, regions, labels, relations, some features."""
    arrays = {
        "regions": [split.offsets, split.boxes, split.sizes, split.labels, split.label_scores],
        "relations": [split.relations, split.relation_offsets, split.relation_scores],
        "features": _sample(split),
    }
    texts = {
        "images": split.ids,
        "captions": split.captions,
        "names": [*split.object_names, "", *split.predicate_names],
    }
    out: dict[str, Any] = {name: f"{len(x)}, {_crc([_bytes(x)])}" for name, x in texts.items()}
    out["caption_to_image"] = _crc([split.caption_to_image])
    return out | {name: _crc(x) for name, x in arrays.items()}


def vocabulary_identity(vocabulary: Vocabulary) -> dict[str, Any]:
    """Count and CRC-32 of the words in their order, for JSON."""
    return {"words": f"{len(vocabulary)}, {_crc([_bytes(vocabulary.words)])}"}


def _bytes(texts: Iterable[str]) -> np.ndarray:
    return np.frombuffer("\0".join(texts).encode(), np.uint8)


def _sample(split: Split) -> list[np.ndarray | None]:
    if split.features is None:
        return [None]
    return [np.asarray(split.features[split.offsets[i] : split.offsets[i + 1]]) for i in sample_of(len(split))]


def _crc(arrays: Iterable[np.ndarray | None]) -> str:
    """Checksum of all bytes in order; an array that is None counts as one "-"."""
    crc = 0
    for array in arrays:
        crc = zlib.crc32(b"-" if array is None else np.ascontiguousarray(array).tobytes(), crc)
    return f"{crc:08x}"
