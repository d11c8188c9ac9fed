"""What a run's directory holds, by name; torch is not needed to look."""

from __future__ import annotations

from pathlib import Path

CHECKPOINTS, BEST, LAST = "checkpoints", "best", "last"
PREFIX = "step-"  # of a checkpoint, before the number of its steps


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the most steps; None where there is none."""
    found = sorted(folder.glob(f"{PREFIX}*")) if folder.is_dir() else []
    return found[-1] if found else None
