"""A scoring problem as plain numbers and names: two runs whose fingerprints agree compute the same bits."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .packing import Items
from .tiling import Problem, in_file
from .version import __version__

# Items of a file that are looked at.
SAMPLE = 64
_READ_BYTES = 1 << 26


def fingerprint(problems: Sequence[Problem]) -> dict[str, Any]:
    """Everything that the scores, or the mean of several problems' scores, depend on, for JSON.

    Features in memory are read whole (their rows without padding, as they are scored); of a memmap's or dataset's file
    the size, the time of its last change and the rows of 64 items stand for the content.
    """
    found = [_fingerprint(problem) for problem in problems]
    return found[0] if len(found) == 1 else {f"model {i + 1}": x for i, x in enumerate(found)}


def _fingerprint(problem: Problem) -> dict[str, Any]:
    out = {
        "software": f"cmsei_fast {__version__}, torch {torch.__version__}",
        "engine": _engine(problem),
        "precision": problem.precision,
        "scorer": problem.scorer.to_dict(),
        "images": _side(problem.images),
        "captions": _side(problem.captions),
    }
    plain: dict[str, Any] = json.loads(json.dumps(out))  # as it is read back: a tuple is a list
    return plain


def differences(expected: dict[str, Any], got: dict[str, Any], prefix: str = "") -> list[str]:
    """One ``"name: expected …, got …"`` for each part in which two fingerprints differ."""
    out: list[str] = []
    for key in sorted({*expected, *got}):
        a, b = expected.get(key), got.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            out += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            out.append(f"{prefix}{key}: expected {a}, got {b}")
    return out


def _engine(problem: Problem) -> str:
    """The engine and what its last bits depend on: the variant of native, else the device's name."""
    if problem.engine == "native":
        from .engines import native

        return f"native {native.current_isa()}"
    device = problem.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{problem.engine} {name}"


def _side(items: Items) -> dict[str, Any]:
    lengths = zlib.crc32(np.ascontiguousarray(items.row_offsets).tobytes())
    shape = {"count": items.count, "width": int(items.data.shape[-1]), "lengths": f"{lengths:08x}"}
    return {**shape, **(_of_file(items) or {"content": _hash(items, list(items.ranges(_READ_BYTES)))})}


def _of_file(items: Items) -> dict[str, Any] | None:
    """Size, time of change and a sample of the file behind the features; None where they are in memory."""
    data = items.data
    if not in_file(data) or getattr(data, "mode", None) == "c":  # what was written to a copy is in memory alone
        return None
    name: Any = data.filename if isinstance(data, np.memmap) else data.file.filename
    try:
        found = os.stat(name)
    except (OSError, TypeError):  # a view of another array, a file without a name
        return None
    sample = _hash(items, [(i, i + 1) for i in sample_of(items.count)])
    return {"file size": found.st_size, "file time": found.st_mtime_ns, "sample": sample}


def sample_of(count: int) -> list[int]:
    """``SAMPLE`` of so many items, or all of fewer: evenly spaced, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, SAMPLE).round().astype(int)).tolist() if count else []


def _hash(items: Items, runs: list[tuple[int, int]]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for first, last in runs:
        rows = items.read(first, last, check=False).rows
        digest.update(rows.contiguous().cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()
