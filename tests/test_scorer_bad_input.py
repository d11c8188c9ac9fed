"""Options of scorers that cannot be, with the exact error each raises."""

from __future__ import annotations

import math

import pytest

from cmsei_fast import Attention, PairScorer

NUMBERS = "expected a finite number"
SCORERS = {
    "negative_temperature": (lambda: Attention(temperature=-1.0), f"Attention.temperature: {NUMBERS} > 0, got -1.0"),
    "zero_temperature": (lambda: Attention(temperature=0.0), f"Attention.temperature: {NUMBERS} > 0, got 0.0"),
    "nan_temperature": (lambda: Attention(temperature=math.nan), f"Attention.temperature: {NUMBERS} > 0, got nan"),
    "infinite_temperature": (lambda: Attention(temperature=math.inf), f"Attention.temperature: {NUMBERS} > 0, got inf"),
    "text_temperature": (lambda: Attention(temperature="9"), f"Attention.temperature: {NUMBERS} > 0, got '9'"),
    "lse_temperature": (lambda: Attention(lse_temperature=0), f"Attention.lse_temperature: {NUMBERS} > 0, got 0"),
    "negative_weight": (lambda: Attention(weight=-0.5), f"Attention.weight: {NUMBERS} >= 0, got -0.5"),
    "norm": (
        lambda: Attention(norm="l3norm"),
        "Attention.norm: expected one of softmax, l2norm, clipped_l2norm, l1norm, clipped_l1norm, clipped, none, "
        "got 'l3norm'",
    ),
    "aggregate": (
        lambda: Attention(aggregate="median"),
        "Attention.aggregate: expected one of mean, sum, max, lse, guided, got 'median'",
    ),
    "steps": (lambda: Attention(steps=0), "Attention.steps: expected an integer from 1 to 8, got 0"),
    "gates": (lambda: Attention(steps=3, gates=((1, 2),)), "Attention.gates: expected 2 pairs (a, b), got ((1, 2),)"),
    "no_term": (lambda: PairScorer(), "PairScorer: expected at least one term with a weight > 0, got none"),
    "guide_temperature": (
        lambda: PairScorer(alignment=1, guide_temperature=0),
        f"PairScorer.guide_temperature: {NUMBERS} > 0, got 0",
    ),
    "nan_weight": (lambda: PairScorer(alignment=math.nan), f"PairScorer.alignment: {NUMBERS} >= 0, got nan"),
}


@pytest.mark.parametrize("name", SCORERS)
def test_scorers(name):
    make, message = SCORERS[name]
    with pytest.raises(ValueError, match="expected") as caught:
        make()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"t2i": {"temprature": 9}}, "PairScorer.t2i: expected any of aggregate, attend, gates, "),
        ({"i2t": "mean"}, "PairScorer.i2t: expected a dictionary of its fields or None, got str"),
        ({"aligment": 1}, "PairScorer: expected any of alignment, "),
        (["t2i"], "PairScorer: expected a dictionary of its fields, got list"),
    ],
    ids=["field", "direction", "term", "list"],
)
def test_a_dictionary_of_other_fields(values: object, message: str) -> None:
    with pytest.raises(TypeError) as raised:
        PairScorer.from_dict(values)  # type: ignore[arg-type]
    assert str(raised.value).startswith(message)
