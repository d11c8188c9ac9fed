"""The script about regions that no caption speaks of: a row runs, and the page shows the committed numbers."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def clutter(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script; benchmarks are not installed with the package."""
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import clutter

    return clutter


def test_page_is_what_the_results_give(clutter: Any) -> None:
    page = (ROOT / "docs" / "ablation.md").read_text(encoding="utf-8")
    record = json.loads((ROOT / "benchmarks" / "clutter.json").read_text(encoding="utf-8"))
    assert clutter.runs.replaced(page, clutter.render(record), *clutter.MARKS) == page, (
        "run python -m benchmarks.clutter table"
    )
    assert {run["row"] for run in record["runs"]} == set(clutter.ROWS)


def test_cross_level_attention_helps_where_most_regions_are_background(clutter: Any) -> None:
    record = json.loads((ROOT / "benchmarks" / "clutter.json").read_text(encoding="utf-8"))

    def mean(row: str, regions: int) -> float:
        own = [r["group"] for r in record["runs"] if (r["row"], r["regions"]) == (row, regions)]
        assert len(own) >= 3
        return statistics.mean(own)

    for regions in (24, 36):
        assert mean("full", regions) > 10 + max(mean("flat", regions), mean("lse", regions))


@pytest.mark.parametrize("row", ["flat", "full"])
def test_a_row_runs(clutter: Any, row: str) -> None:
    result = clutter.run(row, 6, 3, groups=4, epochs=1)
    assert (result["row"], result["regions"], result["seed"]) == (row, 6, 3)
    assert 0 <= result["group"] <= 100
    assert math.isfinite(result["rSum"])
