"""The script about settings for little data: rows that lead from the defaults to the file; the page shows them."""

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
from cmsei_fast.model import ModelConfig
from cmsei_fast.training import TrainConfig

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def little(of_benchmarks: Callable[[str], Any]) -> Any:
    """The script."""
    return of_benchmarks("little_data")


def test_page_is_what_the_results_give(little: Any) -> None:
    record = documents.shown(little, "little_data")
    assert {run["row"] for run in record["runs"]} == set(little.STEPS)
    assert record["settings"] == json.loads(json.dumps(little.collect(ROOT / "no runs")["settings"]))
    assert record["held_out"] == little.HELD_OUT


def test_the_rows_lead_from_the_defaults_to_the_file(little: Any) -> None:
    _, scorer, model, training = little.STEPS["defaults"]
    assert scorer == PairScorer.cmsei()
    assert set(model) == {"width", "word_width"}
    assert model["word_width"] == ModelConfig.word_width
    assert training == TrainConfig(epochs=5)
    _, scorer, model, training = little.STEPS["file"]
    assert scorer == little.ROWS["full-2"][1]
    assert (model, training) == (little.MODEL, little.TRAINING)


def test_images_are_held_out_once(little: Any) -> None:
    split = split_from_scenes(synthetic_scenes(3).scenes)
    training, test = little.hold_out(split, 5)
    assert training.ids + test.ids == split.ids
    assert len(test) == 5


def test_table_has_each_row_with_its_seeds(little: Any) -> None:
    def run(row: str, rsum: float) -> dict[str, Any]:
        return {"row": row, "metrics": {"rSum": rsum}}

    table = little.render({"runs": [run("infonce", 10.0), run("infonce", 14.0), run("defaults", 2.0)]})
    title = little.STEPS["defaults"][0]
    assert table.splitlines()[2:] == [f"| {title} | 1 | 2.0 |", "| + InfoNCE | 2 | 12.0 ± 2.8 |"]


@pytest.mark.parametrize("row", ["defaults", "file"])
def test_a_row_runs(little: Any, row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    title, scorer, model, training = little.STEPS[row]
    small = {**model, "width": 16, "heads": 2, "word_width": 12}
    monkeypatch.setitem(little.STEPS, row, (title, scorer, small, replace(training, epochs=1, batch_size=16)))
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("dog 1 0 2\ncat 0 1 0\n")
    names = {"object_names": ["dog", "cat"], "predicate_names": ["watching", "holding"]}
    learned, held_out = little.hold_out(split_from_scenes(synthetic_scenes(5).scenes, **names), 8)
    result = little.run(row, 7, learned, held_out, str(vectors))
    assert (result["row"], result["seed"], result["title"]) == (row, 7, title)
    assert math.isfinite(result["metrics"]["rSum"])
    assert result["seconds_per_epoch"] > 0
    assert result["scorer"]["t2i"]["aggregate"] == scorer.t2i.aggregate
