"""The ablation's script: it runs, a row is what it says, and the page shows the committed numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import documents
import pytest

from cmsei_fast import PairScorer
from cmsei_fast.data import split_from_scenes, synthetic_scenes
from cmsei_fast.training import TrainConfig


@pytest.fixture
def ablation(of_benchmarks: Callable[[str], Any]) -> Any:
    """The script."""
    return of_benchmarks("ablation")


def test_page_is_what_the_results_give(ablation: Any) -> None:
    record = documents.shown(ablation, "ablation")
    assert {run["row"] for run in record["runs"]} == set(ablation.ROWS)


def test_the_settings_to_copy_are_those_of_the_whole_model(ablation: Any) -> None:
    (settings,) = (json.loads(text) for name, text in documents.blocks("json") if name == "ablation.md")
    scorer = PairScorer.from_dict(settings["model"].pop("scorer"))
    assert scorer == ablation.ROWS["full-2"][1]
    assert settings["model"] == ablation.MODEL
    assert TrainConfig.from_dict(settings["training"]) == ablation.TRAINING


def test_table_is_the_mean_of_the_seeds(ablation: Any) -> None:
    def run(seed: int, rsum: float) -> dict[str, Any]:
        way = {"R@1": 1.0 + seed, "R@5": 2.0, "R@10": 3.0}
        return {"row": "scan", "seed": seed, "metrics": {"i2t": way, "t2i": way, "rSum": rsum}}

    table = ablation.render({"runs": [run(0, 10.0), run(1, 14.0)]})
    assert table.splitlines()[2:] == ["| SCAN t2i | 2 | 1.5 | 2.0 | 3.0 | 1.5 | 2.0 | 3.0 | 12.0 ± 2.8 |"]


def test_each_run_tells_its_own_machine_and_is_taken_once(
    ablation: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = ablation.runs
    for cpu in ("first", "second"):
        target = tmp_path / f"{cpu}.json"
        assert runs.claimed(target)
        assert not runs.claimed(target)
        monkeypatch.setattr(runs, "describe", lambda cpu=cpu: {"cpu": cpu, "python": "3", "torch": "2", "isa": "no"})
        runs.leave(target, {"row": "scan"})
    record = ablation.collect(tmp_path)
    assert record["runs"] == [{"row": "scan", "cpu": x, "python": "3", "torch": "2"} for x in ("first", "second")]
    assert "cpu" not in record


def test_results_and_page_are_written_together(
    ablation: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, results = tmp_path / "page.md", tmp_path / "results.json"
    page.write_text("before\n<b>\n\nold\n\n<e>\nafter\n")
    ablation.runs.publish({"runs": []}, results, "| new |", page, ("<b>", "<e>"))
    assert page.read_text() == "before\n<b>\n\n| new |\n\n<e>\nafter\n"
    assert json.loads(results.read_text()) == {"runs": []}
    assert capsys.readouterr().out == "| new |\n"
    for text in ("no marks", "<b> <e> <e>"):
        page.write_text(text)
        with pytest.raises(ValueError, match="expected <b> and then <e>, once each"):
            ablation.runs.publish({"runs": [1]}, results, "| new |", page, ("<b>", "<e>"))
        assert (page.read_text(), json.loads(results.read_text())) == (text, {"runs": []})


@pytest.mark.parametrize("row", ["scan", "implicit"])
def test_a_row_runs(ablation: Any, row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "TRAINING", replace(ablation.TRAINING, epochs=1, batch_size=16))
    monkeypatch.setattr(ablation, "MODEL", {**ablation.MODEL, "width": 16, "heads": 2, "word_width": 12})
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("dog 1 0 2\ncat 0 1 0\n")
    names = {"object_names": ["dog", "cat"], "predicate_names": ["watching", "holding"]}
    training, test = (split_from_scenes(synthetic_scenes(4, seed=i).scenes, **names) for i in (0, 1))
    result = ablation.run(row, 7, training, test, str(vectors))
    assert (result["row"], result["seed"], result["title"]) == (row, 7, ablation.ROWS[row][0])
    assert math.isfinite(result["metrics"]["rSum"])
    assert result["seconds_per_epoch"] > 0
    assert (result["scorer"]["i2t"] is None) == (row == "scan")


def test_the_command_makes_what_is_asked_for_once(
    ablation: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(row: str, seed: int, *given: str) -> dict[str, Any]:
        assert given == ("training", "test", "vectors.txt")
        return {"row": row, "seed": seed, "metrics": {"rSum": 10.0 * seed}, "seconds_per_epoch": 1.5}

    monkeypatch.setattr(ablation, "load", lambda folder: ("training", "test"))
    monkeypatch.setattr(ablation, "run", run)
    where = ["folder", "--word-vectors", "vectors.txt", "--runs", str(tmp_path / "new" / "runs")]
    monkeypatch.setattr("sys.argv", ["ablation", "train", *where, "--seeds", "3", "4", "--rows", "scan", "i2t"])
    for told in ("scan 3: rSum 30.0, 1.5 s an epoch\ni2t 3: rSum 30.0, 1.5 s an epoch\n", ""):
        ablation.main()
        printed = capsys.readouterr().out
        assert printed.startswith(told)
        assert printed.count("\n") == 2 * told.count("\n")
    assert {path.name for path in (tmp_path / "new" / "runs").glob("*.json")} == {
        f"{row}-{seed}.json" for row in ("scan", "i2t") for seed in (3, 4)
    }


def test_the_command_makes_the_table_of_a_folder(
    ablation: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    way = {"R@1": 1.0, "R@5": 2.0, "R@10": 3.0}
    ablation.runs.leave(tmp_path / "scan-0.json", {"row": "scan", "metrics": {"i2t": way, "t2i": way, "rSum": 12.0}})
    results, page = tmp_path / "made" / "ablation.json", tmp_path / "page.md"
    results.parent.mkdir()
    page.write_text("\n\n".join(ablation.MARKS) + "\n")
    for name, value in (("RESULTS", results), ("PAGE", page)):
        monkeypatch.setattr(ablation, name, value)
    monkeypatch.setattr("sys.argv", ["ablation", "table", str(tmp_path)])
    ablation.main()
    table = capsys.readouterr().out
    assert "| SCAN t2i | 1 | 1.0 | 2.0 | 3.0 | 1.0 | 2.0 | 3.0 | 12.0 |" in table
    assert table in page.read_text()
    assert [run["row"] for run in json.loads(results.read_text())["runs"]] == ["scan"]
