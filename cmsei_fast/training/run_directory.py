"""The names of the files in a run's directory; needs no torch."""

from __future__ import annotations

from pathlib import Path

CHECKPOINTS, BEST, LAST = "checkpoints", "best", "last"
PREFIX = "step-"  # of a checkpoint, before the number of its steps


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the most steps; None if there is none."""
    found = sorted(folder.glob(f"{PREFIX}*")) if folder.is_dir() else []
    return found[-1] if found else None
