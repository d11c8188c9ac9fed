"""The script about words of relations: a word's shares are what they say, and the page shows the committed numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_runs import tiny_model, tiny_split

from cmsei_fast import Attention, PairScorer
from cmsei_fast.report import explain_features
from cmsei_fast.report.explanation import Edge

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script; benchmarks are not installed with the package."""
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import relation_words

    return relation_words


def test_page_is_what_the_results_give(script: Any) -> None:
    page = (ROOT / "docs" / "explain.md").read_text(encoding="utf-8")
    record = json.loads((ROOT / "benchmarks" / "relation_words.json").read_text(encoding="utf-8"))
    assert script.replaced(page, script.render(record), script.MARKS) == page, "run python -m benchmarks.relation_words"
    assert [row["word"] for row in record["rows"]] == list(script.WORDS)


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
        "graph, subject": 2.0,
        "graph, object": 2.0,
        "graph, object (others)": 0.0,
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
    assert f"| {word} ({row['captions']}) |" in script.render({"rows": [row]})
