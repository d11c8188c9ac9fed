"""The script about words of relations: a word's shares are what they say, and the page shows the committed numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import documents
import numpy as np
import pytest
from training_runs import tiny_model, tiny_split

from cmsei_fast import Attention, PairScorer
from cmsei_fast.data import split_from_scenes, synthetic_scenes
from cmsei_fast.report import explain_features
from cmsei_fast.report.explanation import Edge


@pytest.fixture
def script(of_benchmarks: Callable[[str], Any]) -> Any:
    """The script."""
    return of_benchmarks("relation_words")


def test_page_is_what_the_results_give(script: Any) -> None:
    record = documents.shown(script, "relation_words", "explain.md")
    assert {run["grounding"] for run in record["runs"]} == {0.0, 0.1}
    for run in record["runs"]:
        assert [row["word"] for row in run["rows"]] == list(script.WORDS)


def test_shares_are_multiples_of_an_even_one(script: Any) -> None:
    edges = [
        Edge("semantic", 0, 0, 1, "riding", False, 1.0, 1.0, 0.5),
        Edge("semantic", 0, 1, 0, "riding", True, 1.0, 1.0, 0.25),
        Edge("semantic", 0, 2, 3, "near", False, 1.0, 1.0, 0.5),
        Edge("semantic", 0, 3, 2, "near", True, 1.0, 1.0, 0.5),
        Edge("spatial", 0, 3, 2, "covers", False, 1.0, 1.0, 0.25),
        Edge("semantic", 0, 2, 2, "self", False, 1.0, 1.0, 0.25),
    ]
    v = 40 * np.eye(4)
    words = np.stack([v[0], v[2], v[3]])  # each looks at one region alone
    found = explain_features(
        v,
        words,
        scorer=PairScorer(Attention(attend="hard")),
        word_names=["riding", "a", "b"],
        edges=edges,
        kept=[np.array([0.5, 0.75, 0.25, 0.25])],
    )
    shares = script.measure(found, 0, ["riding"])
    expected = {
        "attention, subject": 4.0,
        "attention, subject (others)": 0.0,
        "attention, object": 0.0,
        "attention, both ends": 0.0,
        "graph, subject": 2.0,
        "graph, object": 2.0,
        "graph, object (others)": 0.0,
        "graph, both ends": 100.0,
        "graph, both ends (others)": 0.0,
        "edges": (0.5 / 2) / (0.5 / 4),
        "edges (others)": 0.0,
        "relevance": 1.0,
        "lit": 50.0,  # both of the two relations
    }
    for name, value in expected.items():
        assert shares[name] == pytest.approx(value, abs=1e-6), name
    assert script.measure(found, 0, ["wearing"]) is None


def test_it_runs(script: Any) -> None:
    split = tiny_split(2)
    word = split.captions[0].split()[2]
    predicates = tuple(split.predicate_names)
    (row,) = script.run(tiny_model(split), split, {word: predicates})
    assert row["captions"] >= 1
    assert 0 < row["images with the relation"] <= 100
    runs = [{"grounding": 0.0, "rSum": 1.0, "rows": [row]}]
    runs += [{"grounding": 0.1, "rSum": rsum, "rows": [row | {"lit": rsum}]} for rsum in (10.0, 14.0)]
    tables = script.render({"runs": runs})
    assert tables.startswith("Trained by retrieval alone (1 seed, rSum 1.0):\n")
    assert "\nTrained with grounding of weight 0.1 (2 seeds, rSum 12.0 ± 2.8):\n" in tables
    assert tables.count(f"| {word} ({row['captions']}) |") == 2
    assert tables.endswith(f"12 ({row['lit (others)']:.0f}) |")


def test_a_model_is_trained_once_and_looked_at(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "TRAINING", replace(script.TRAINING, epochs=1, batch_size=16))
    monkeypatch.setattr(script, "MODEL", {**script.MODEL, "width": 16, "heads": 2, "word_width": 12})
    monkeypatch.setattr(script, "WORDS", {"watching": ("watching",)})
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("dog 1 0 2\ncat 0 1 0\n")
    made = synthetic_scenes(4).scenes
    names = {"object_names": sorted({x for s in made for x in s.labels}), "predicate_names": ["watching", "holding"]}
    split = split_from_scenes(made, **names)
    for _ in range(2):
        script.train_run(tmp_path / "run", 0.1, 7, split, str(vectors))
    found = script.measure_run(tmp_path / "run", split)
    assert (found["seed"], found["grounding"]) == (7, 0.1)
    assert 0 < found["rSum"] <= 600
    assert found["rows"][0]["captions"] >= 1


def test_the_command_makes_what_is_asked_for(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], threads: None
) -> None:
    def made(directory: Path, weight: float, seed: int, *given: str) -> dict[str, Any]:
        assert (directory.name, given) == (f"{weight:g}-{seed}", ("training", "test", "vectors.txt"))
        return {"seed": seed, "grounding": weight, "rSum": 240.0, "rows": []}

    monkeypatch.setattr(script, "load", lambda folder: ("training", "test"))
    monkeypatch.setattr(script, "train_and_measure", made)
    where = ["folder", "--word-vectors", "vectors.txt", "--runs", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["relation_words", "train", *where, "--seeds", "5"])
    script.main()
    told = ("weight 0, seed 5: rSum 240.0\n", "weight 0.1, seed 5: rSum 240.0\n")
    assert capsys.readouterr().out == "".join(told)
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["0-5.json", "0.1-5.json"]
