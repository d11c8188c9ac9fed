"""Reads what a training run left on disk, for its report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.json_object import read_json
from ..training.log import read_log
from ..training.run_directory import BEST, LAST
from ..training.run_record import CONFIG

LOG = "log.jsonl"


@dataclass(frozen=True)
class Run:
    """A run's records.

    Args:
        directory: of the run.
        config: its ``run.json``: the objects ``training`` and ``model``.
        steps: records of steps, with ``step``, ``epoch``, ``loss`` and ``learning_rate``.
        validations: records of validations, with ``step``, ``epoch`` and ``validation``.
    """

    directory: Path
    config: dict[str, dict[str, Any]]
    steps: list[dict[str, Any]]
    validations: list[dict[str, Any]]

    def model(self, which: str | None) -> Path:
        """The directory of the best or the last model; None takes the best where there is one.

        Raises:
            FileNotFoundError: if it is not there.
        """
        wanted = (BEST, LAST) if which is None else (which,)
        for name in wanted:
            if (self.directory / name).is_dir():
                return self.directory / name
        raise FileNotFoundError(f"{self.directory}: expected a model in {' or '.join(wanted)}/, got none")

    def scorer(self) -> dict[str, Any] | None:
        """The learned score of the model that :meth:`model` gives by default; None if no validation recorded it."""
        best = (self.directory / BEST).is_dir()
        best_record = max(self.validations, key=_rsum) if best and self.validations else None  # of equal ones the first
        record = best_record if best_record is not None else (self.validations or [{}])[-1]
        scorer = record.get("scorer")
        return scorer if isinstance(scorer, dict) else None


def read_run(directory: str) -> Run:
    """Reads the configuration and the log.

    Raises:
        OSError: naming what is missing.
        ValueError: naming the file that is something else, or a log without a step.
    """
    path = Path(directory)
    for name, description in ((CONFIG, "the configuration"), (LOG, "the log")):
        if not (path / name).is_file():
            is_model_directory = (path.parent / CONFIG).is_file()
            got = f"a model of the run {path.parent}" if is_model_directory else "no such file"
            raise FileNotFoundError(f"{path / name}: expected {description} of a training run, got {got}")
    config = read_json(path / CONFIG)
    parts = ("training", "model")
    if not all(isinstance(config.get(part), dict) for part in parts):
        raise ValueError(f"{path / CONFIG}: expected the objects {' and '.join(parts)}, got another JSON file")
    records = read_log(path / LOG)
    steps = [record for record in records if _is_number(record.get("loss"))]
    if not steps:
        raise ValueError(f"{path / LOG}: expected at least one step with a loss, got none")
    validations = [record for record in records if isinstance(record.get("validation"), dict)]
    return Run(path, {part: config[part] for part in parts}, steps, validations)


def _rsum(record: dict[str, Any]) -> float:
    value = record["validation"].get("rSum")
    return float(value) if _is_number(value) else float("-inf")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
