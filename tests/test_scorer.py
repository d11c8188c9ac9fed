"""What a score is: presets, the two halves the operators take, round trips, and everything that is refused."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from cmsei_fast.scorer import AGGREGATES, NORMS, Attention, PairScorer

FULL = PairScorer(
    Attention(0.5, 7.0, "l1norm", "lse", 5.0, 3, ((1.0, -1.0), (0.5, 0.25))),
    Attention(2.0, 3.0, "softmax", "max", 6.5, 2, ((-2.0, 0.0),)),
    object_sentence=0.25,
    word_image=0.75,
    alignment=1.5,
    guide_temperature=4.0,
)
SCORERS = {
    "cmsei": PairScorer.cmsei(),
    "scan_t2i": PairScorer.scan_t2i(),
    "scan_i2t": PairScorer.scan_i2t("mean"),
    "alignment": PairScorer(alignment=2.0),
    "weightless": PairScorer(t2i=Attention(weight=0.0, steps=3), i2t=Attention(steps=2), word_image=0.5),
    "full": FULL,
    "bfan": PairScorer.bfan(),
    "naaf": PairScorer.naaf(0.25),
    "chan": PairScorer.chan(),
}


def test_cmsei() -> None:
    scorer = PairScorer.cmsei()
    clipped, guided = NORMS.index("clipped_l2norm"), AGGREGATES.index("guided")
    assert scorer.config() == [1, clipped, guided, 2, 1, clipped, guided, 2, 1, 1, 1, 0, 0, 0, 0]
    assert scorer.scalars() == [1, 1, 1, 1, 1, 5, 9, 6, 4, 6, 2, -1, 2, -1]


def test_scan() -> None:
    clipped = NORMS.index("clipped_l2norm")
    assert PairScorer.scan_t2i().config() == [1, clipped, AGGREGATES.index("lse"), 1, 0, 0, 0, 1, *[0] * 7]
    assert PairScorer.scan_t2i().scalars() == [1, 0, 0, 0, 0, 5, 9, 6, 9, 6]
    assert PairScorer.scan_i2t("mean").config() == [0, 0, 0, 1, 1, clipped, AGGREGATES.index("mean"), 1, *[0] * 7]
    assert PairScorer.scan_i2t().scalars() == [0, 1, 0, 0, 0, 5, 9, 6, 4, 5]


def test_gates_of_both_directions_follow_each_other() -> None:
    assert FULL.scalars()[10:] == [1.0, -1.0, 0.5, 0.25, -2.0, 0.0]
    assert Attention(steps=3).gates == ((2.0, -1.0), (2.0, -1.0))
    assert Attention(steps=2, gates=[[1, 0]]).gates == ((1.0, 0.0),)
    assert Attention(gates=[]) == Attention()


def test_a_direction_without_weight_is_not_there() -> None:
    scorer = SCORERS["weightless"]
    assert scorer.config()[:4] == [0, 0, 0, 1]
    assert len(scorer.scalars()) == 12
    assert scorer.config() == dataclasses.replace(scorer, t2i=None).config()
    assert scorer.scalars() == dataclasses.replace(scorer, t2i=None).scalars()


@pytest.mark.parametrize("scorer", SCORERS.values(), ids=SCORERS)
def test_round_trips(scorer: PairScorer) -> None:
    assert scorer.with_scalars(scorer.scalars()) == scorer
    assert PairScorer.from_dict(scorer.to_dict()) == scorer
    assert PairScorer.from_dict(json.loads(json.dumps(scorer.to_dict()))) == scorer
    assert hash(PairScorer.from_dict(scorer.to_dict())) == hash(scorer)


@pytest.mark.parametrize("scorer", SCORERS.values(), ids=SCORERS)
def test_other_scalars_same_structure(scorer: PairScorer) -> None:
    values = [x * 1.5 for x in scorer.scalars()]
    other = scorer.with_scalars(values)
    assert other.config() == scorer.config()
    live = [bool(x) for x in scorer.config()]
    expected = other.scalars()
    for i, (a, b) in enumerate(zip(values, expected, strict=True)):
        absent = (i in (6, 7) and not live[0]) or (i in (8, 9) and not live[4])
        assert a == b or absent, i


def test_scalars_of_another_structure() -> None:
    with pytest.raises(ValueError, match=r"^values: expected 14 numbers, got 10$"):
        PairScorer.cmsei().with_scalars([1.0] * 10)
    with pytest.raises(ValueError, match=r"^Attention.temperature: expected a finite number > 0, got -9.0$"):
        PairScorer.scan_t2i().with_scalars([1, 0, 0, 0, 0, 5, -9.0, 6, 9, 6])


def test_numbers_of_numpy_are_plain_ones() -> None:
    gates = ((np.float32(1), np.int64(0)),)
    made = Attention(np.float64(0.5), np.float32(4), steps=np.int64(2), gates=gates, lse_temperature=np.float16(2))
    plain = Attention(0.5, 4.0, steps=2, gates=((1.0, 0.0),), lse_temperature=2.0)
    assert made == plain
    assert json.dumps(PairScorer(made).to_dict()) == json.dumps(PairScorer(plain).to_dict())


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PairScorer.cmsei().alignment = 2.0  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Attention().weight = 2.0  # type: ignore[misc]


BAD_ATTENTION = {
    "weight-negative": ({"weight": -1.0}, "Attention.weight: expected a finite number >= 0, got -1.0"),
    "weight-nan": ({"weight": math.nan}, "Attention.weight: expected a finite number >= 0, got nan"),
    "weight-type": ({"weight": "1"}, "Attention.weight: expected a finite number >= 0, got '1'"),
    "weight-bool": ({"weight": True}, "Attention.weight: expected a finite number >= 0, got True"),
    "temperature-zero": ({"temperature": 0}, "Attention.temperature: expected a finite number > 0, got 0"),
    "temperature-negative": ({"temperature": -4.0}, "Attention.temperature: expected a finite number > 0, got -4.0"),
    "temperature-infinite": ({"temperature": math.inf}, "Attention.temperature: expected a finite number > 0, got inf"),
    "lse-zero": ({"lse_temperature": 0.0}, "Attention.lse_temperature: expected a finite number > 0, got 0.0"),
    "norm": (
        {"norm": "l3norm"},
        "Attention.norm: expected one of softmax, l2norm, clipped_l2norm, l1norm, clipped_l1norm, clipped, none, "
        "got 'l3norm'",
    ),
    "aggregate": (
        {"aggregate": "Mean"},
        "Attention.aggregate: expected one of mean, sum, max, lse, guided, got 'Mean'",
    ),
    "attend": (
        {"attend": "Hard"},
        "Attention.attend: expected one of softmax, hard, focal_equal, focal_prob, negative_aware, got 'Hard'",
    ),
    "relevance": ({"relevance": "l2"}, "Attention.relevance: expected one of cosine, dot, got 'l2'"),
    "threshold": ({"threshold": math.nan}, "Attention.threshold: expected a finite number, got nan"),
    "threshold-type": ({"threshold": "0"}, "Attention.threshold: expected a finite number, got '0'"),
    "aware-dot": (
        {"attend": "negative_aware", "relevance": "dot"},
        "Attention.attend: expected 'negative_aware' with steps=1 and relevance='cosine', got steps=1, relevance='dot'",
    ),
    "aware-steps": (
        {"attend": "negative_aware", "steps": 2},
        "Attention.attend: expected 'negative_aware' with steps=1 and relevance='cosine', "
        "got steps=2, relevance='cosine'",
    ),
    "steps-zero": ({"steps": 0}, "Attention.steps: expected an integer from 1 to 8, got 0"),
    "steps-many": ({"steps": 9}, "Attention.steps: expected an integer from 1 to 8, got 9"),
    "steps-float": ({"steps": 2.0}, "Attention.steps: expected an integer from 1 to 8, got 2.0"),
    "steps-bool": ({"steps": True}, "Attention.steps: expected an integer from 1 to 8, got True"),
    "gates-count": (
        {"steps": 3, "gates": ((1.0, 0.0),)},
        "Attention.gates: expected 2 pairs (a, b), got ((1.0, 0.0),)",
    ),
    "gates-unused": ({"gates": ((1.0, 0.0),)}, "Attention.gates: expected 0 pairs (a, b), got ((1.0, 0.0),)"),
    "gates-triple": (
        {"steps": 2, "gates": ((1.0, 0.0, 2.0),)},
        "Attention.gates: expected 1 pairs (a, b), got ((1.0, 0.0, 2.0),)",
    ),
    "gates-flat": ({"steps": 2, "gates": (1.0, 0.0)}, "Attention.gates: expected 1 pairs (a, b), got (1.0, 0.0)"),
    "gates-number": ({"steps": 2, "gates": 1.0}, "Attention.gates: expected 1 pairs (a, b), got 1.0"),
    "gates-nan": (
        {"steps": 2, "gates": ((math.nan, 0.0),)},
        "Attention.gates: expected a finite number, got nan",
    ),
    "weight-huge": ({"weight": 10**400}, f"Attention.weight: expected a finite number >= 0, got {10**400!r}"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_ATTENTION.values(), ids=BAD_ATTENTION)
def test_bad_attention(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        Attention(**arguments)
    assert str(caught.value) == message


BAD_SCORER = {
    "nothing": ({}, ValueError, "PairScorer: expected at least one term with a weight > 0, got none"),
    "weightless": (
        {"t2i": Attention(weight=0.0)},
        ValueError,
        "PairScorer: expected at least one term with a weight > 0, got none",
    ),
    "direction-type": ({"t2i": 1.0}, TypeError, "PairScorer.t2i: expected an Attention or None, got float"),
    "negative": (
        {"alignment": -1.0},
        ValueError,
        "PairScorer.alignment: expected a finite number >= 0, got -1.0",
    ),
    "guide": (
        {"alignment": 1.0, "guide_temperature": 0.0},
        ValueError,
        "PairScorer.guide_temperature: expected a finite number > 0, got 0.0",
    ),
}


@pytest.mark.parametrize(("arguments", "kind", "message"), BAD_SCORER.values(), ids=BAD_SCORER)
def test_bad_scorer(arguments: dict, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        PairScorer(**arguments)
    assert str(caught.value) == message
