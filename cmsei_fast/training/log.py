"""A run's log: JSON lines, TensorBoard where it is installed, and a progress bar."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..data.files import errors_naming, replacing


class Log:
    """Appends records to ``log.jsonl`` and numbers to TensorBoard; what a resumed run repeats is taken out first.

    Args:
        directory: of the run.
        step: steps that are done; records of later ones are dropped.
        enabled: False for processes that write nothing.
    """

    def __init__(self, directory: Path, step: int = 0, enabled: bool = True) -> None:
        self.path, self.enabled, self.board = directory / "log.jsonl", enabled, None
        if not enabled:
            return
        kept = [record for record in read_log(self.path) if record["step"] <= step] if self.path.exists() else []
        with replacing(self.path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in kept)
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, **values: Any) -> None:
        """One record: the step, and anything JSON holds; numbers go to TensorBoard too."""
        if not self.enabled:
            return
        with errors_naming(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self.board is not None:
            for name, value in _numbers(values):
                self.board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes TensorBoard."""
        if self.board is not None:
            self.board.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log; lines that are none, as the last that a killed run left unfinished, are passed over.

    Raises:
        OSError: the file cannot be opened.
    """
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records


def _numbers(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield prefix + name, float(value)
