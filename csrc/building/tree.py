"""The source tree: where it is, and its files."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "cmsei_fast"


def sources(pattern: str) -> list[str]:
    """Paths from the root of the files that match, always in one order."""
    return sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern))


def write_if_changed(path: Path, text: str) -> None:
    """Writes a file, keeping its time stamp if it already says the same."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
