"""The script about regions that no caption speaks of: a row runs, and the page shows the committed numbers."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import documents
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def clutter(of_benchmarks: Callable[[str], Any]) -> Any:
    """The script."""
    return of_benchmarks("clutter")


def test_page_is_what_the_results_give(clutter: Any) -> None:
    record = documents.shown(clutter, "clutter")
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


def test_the_command_makes_what_is_asked_for(
    clutter: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(row: str, regions: int, seed: int) -> dict[str, Any]:
        return {"row": row, "regions": regions, "seed": seed, "group": 50.0, "rSum": 300.0, "seconds": 7.0}

    monkeypatch.setattr(clutter, "run", run)
    asked = ["--seeds", "0", "--regions", "8", "9", "--rows", "flat"]
    monkeypatch.setattr("sys.argv", ["clutter", "train", "--runs", str(tmp_path), *asked])
    clutter.main()
    assert capsys.readouterr().out == "flat 8 0: 50.0 %, 7 s\nflat 9 0: 50.0 %, 7 s\n"
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["flat-8-0.json", "flat-9-0.json"]
