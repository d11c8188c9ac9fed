"""The results of a benchmark run: collected row by row, printed at the end, and saved if asked for."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.pages import RESULTS, write
from benchmarks.paired import Paired, spread
from benchmarks.rows import ROWS, extent, figure
from benchmarks.settings import QUICK


@dataclass
class Report:
    """The results of one run."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=machine.describe)

    def add(self, key: str, values: list[float], paired: Paired | None = None, **details: Any) -> float:
        """Records a row of ``ROWS``; returns its median.

        Args:
            values: the ratio (or share) of each round.
            paired: the times behind it.
            details: sizes and whatever else belongs into the file.

        Raises:
            AssertionError: if it is not finite.
        """
        row = ROWS[key]
        found = spread(values)
        median = float(found["median"])
        verdict = row.verdict(median, self.about["isa"])
        times = paired.seconds() if paired else {}
        about = {"title": row.title, "unit": row.unit, "target": row.wanted(), "verdict": verdict}
        assert math.isfinite(median), f"{row.title}: {median}"
        self.rows[key] = {**about, **found, **times, **details}
        return median

    def judge(self, *keys: str) -> None:
        """Holds recorded rows to their targets, where these apply; a quick run measures nothing that could be held to.

        Raises:
            AssertionError: naming the rows that miss theirs.
        """
        missed = [self.rows[key] for key in keys if self.rows[key]["verdict"] == "missed"]
        text = "; ".join(f"{x['title']}: {figure(x['median'], x['unit'])}, expected {x['target']}" for x in missed)
        assert QUICK or not missed, text

    def unmeasured(self, key: str, reason: str) -> None:
        """Records that a row could not be measured here, and why."""
        self.rows[key] = {"title": ROWS[key].title, "verdict": f"not measured: {reason}"}

    def missing(self) -> list[str]:
        """Rows that this run did not reach."""
        return [key for key in ROWS if key not in self.rows]

    def lines(self) -> list[str]:
        """The table that is printed."""
        about = self.about
        head = f"{about['cpu']}; ISA {about['isa']} of {', '.join(about['isas'])}; {about['threads']} threads; "
        out = [head + f"Python {about['python']}, torch {about['torch']}, numpy {about['numpy']}"]
        if QUICK:
            out.append("QUICK RUN (CMSEI_BENCH_QUICK): sizes too small to say anything about speed; nothing is saved")
        out.append(f"{'median of paired ratios':76}{'median':>9}{'quartiles':>20}{'rounds':>8}{'target':>10}  verdict")
        for key in ROWS:
            result = self.rows.get(key)
            if result is None:
                continue
            if "median" not in result:
                out.append(f"{result['title']:76}{'–':>9}{'':38}  {result['verdict']}")
                continue
            median, within = figure(result["median"], result["unit"]), extent(result, result["unit"])
            verdict = "" if QUICK else result["verdict"]
            out.append(
                f"{result['title']:76}{median:>9}{within:>20}{result['rounds']:>8}{result['target']:>10}  {verdict}"
            )
        return out

    def save(self) -> Path:
        """Writes the file of this processor at once or not at all; returns its path."""
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{machine.slug(self.about['cpu'])}.json"
        ordered = {key: self.rows[key] for key in ROWS}
        text = json.dumps({**self.about, "rows": ordered}, indent=2, ensure_ascii=False)
        write(path, text + "\n")
        return path
