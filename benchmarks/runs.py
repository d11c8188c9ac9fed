"""Runs that several processes may share out among them: a JSON file each, put together into one and into a page."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from benchmarks.pages import replaced, write


def claimed(target: Path) -> bool:
    """Whether this process is the first to want the run of that file, and has it now."""
    try:
        os.close(os.open(target.with_suffix(".claimed"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def leave(target: Path, found: dict[str, Any]) -> None:
    """Writes a run's file: what was found, and the machine that found it."""
    about = describe()
    write(target, json.dumps({**found, **{key: about[key] for key in ("cpu", "python", "torch")}}, indent=1) + "\n")


def read(runs: Path) -> list[dict[str, Any]]:
    """What all runs of a folder have left, by their files' names."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(runs.glob("*.json"))]


def publish(record: dict[str, Any], results: Path, table: str, page: Path, marks: tuple[str, str]) -> None:
    """Writes the record and puts its table into the page.

    Raises:
        ValueError: if the marks are not there once each; nothing is written then.
    """
    text = replaced(page.read_text(encoding="utf-8"), table, *marks)
    write(results, json.dumps(record, indent=1) + "\n")
    write(page, text)
    print(table)
