"""Attention other than the softmax and relevance other than the cosine: every engine against the reference."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from conftest import Backend, leave_out
from problems import (
    TF32_ROUNDING,
    Problem,
    attention_options,
    computed,
    decided,
    error,
    literal,
    magnitude,
    name,
    offsets,
    truth,
)

from cmsei_fast import engines, score_matrix
from cmsei_fast.nn import PairScore
from cmsei_fast.ops import pair_score
from cmsei_fast.scorer import AGGREGATES, ATTENDS, NORMS, RELEVANCES, Attention, PairScorer

pytestmark = pytest.mark.usefixtures("poisoned")

PROBLEMS = attention_options()
# Float32 loses digits where a query hangs between two contexts, as with the softmax.
GRADIENT_FLOOR = 1e-4


@pytest.mark.parametrize("problem", PROBLEMS, ids=name)
def test_float64_against_reference(problem: Problem, backend: Backend) -> None:
    expected = truth(problem)
    actual = computed(problem, backend.engine, torch.float64, device=backend.device)
    assert error(actual.scores, expected.scores) <= 1e-12 * magnitude(expected.scores)
    for key, value in expected.gradients().items():
        assert error(actual.gradients()[key], value) <= 1e-10 * magnitude(value), key


@pytest.mark.parametrize("problem", PROBLEMS, ids=name)
def test_float32_against_reference(problem: Problem, backend: Backend) -> None:
    expected, by_pytorch = truth(problem), literal(problem, torch.float32).gradients()
    actual = computed(problem, backend.engine, torch.float32, device=backend.device)
    assert error(actual.scores, expected.scores) <= 1e-5 * magnitude(expected.scores)
    for key, value in expected.gradients().items():
        limit = 2 * error(by_pytorch[key], value) + GRADIENT_FLOOR * magnitude(value)
        assert error(actual.gradients()[key], value) <= limit, key


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("problem", PROBLEMS[::3], ids=name)
def test_rounded_features_are_summed_wide(problem: Problem, precision: str, backend: Backend) -> None:
    """Rounding may move a choice, rightly: so the truth is that of the rounded features."""
    v, w, v_offsets, w_offsets = problem.tensors()
    options = {"scorer": problem.scorer, "precision": precision}
    expected = pair_score(v, w, v_offsets, w_offsets, engine="reference", **options).double()
    device = [x.to(backend.device, torch.float32) for x in (v, w)]
    actual = pair_score(*device, v_offsets, w_offsets, engine=backend.engine, **options)
    limit = TF32_ROUNDING if backend.engine == "triton" else 1e-5
    assert error(actual.double().cpu(), expected) <= limit * magnitude(expected)


SMALL = [
    PairScorer(**{direction: Attention(1.0, 6.0, norm, aggregate, 6.0, steps, attend=attend, relevance=relevance)})
    for direction, norm, aggregate, steps, attend, relevance in (
        ("t2i", "none", "lse", 1, "hard", "dot"),
        ("i2t", "none", "guided", 2, "hard", "cosine"),
        ("t2i", "clipped_l2norm", "mean", 2, "focal_equal", "cosine"),
        ("i2t", "softmax", "guided", 1, "focal_prob", "dot"),
        ("t2i", "l1norm", "sum", 2, "softmax", "dot"),
    )
]
SMALL += [
    PairScorer(t2i=Attention(1.0, 6.0, "clipped_l2norm", attend="negative_aware", threshold=0.2)),
    PairScorer(i2t=Attention(1.0, 6.0, "softmax", "guided", attend="negative_aware", threshold=0.6)),
]
GRADCHECK = [decided(Problem(s, (3, 1), (2, 4), 3, seed=7)) for s in SMALL]


@pytest.mark.parametrize("problem", GRADCHECK, ids=name)
def test_gradcheck(problem: Problem, backend: Backend) -> None:
    """The choices stand still within the differences' reach, so what is constant in the gradient is constant there."""
    if backend.device != "cpu":
        pytest.skip("the gradients' formulas do not depend on the device")
    v, w, v_offsets, w_offsets = problem.tensors()
    scalars = torch.tensor(problem.scorer.scalars(), dtype=torch.float64)

    def scores(*leaves: torch.Tensor) -> torch.Tensor:
        return pair_score(
            *leaves[:2], v_offsets, w_offsets, scorer=problem.scorer, scalars=leaves[2], engine=backend.engine
        )

    assert torch.autograd.gradcheck(scores, [x.requires_grad_() for x in (v, w, scalars)], eps=1e-6, atol=1e-6)


PRESETS = {
    "hard": PairScorer(Attention(attend="hard", steps=2), Attention(attend="hard", relevance="dot")),
    "focal_equal": PairScorer.bfan(),
    "focal_prob": PairScorer.bfan("prob"),
    "negative_aware": PairScorer.naaf(0.2),
}


@pytest.mark.parametrize("scorer", PRESETS.values(), ids=PRESETS)
def test_zero_vectors_and_equal_items(scorer: PairScorer, backend: Backend) -> None:
    """A zero region and word, and an image of one region four times: a choice among equals makes no difference."""
    leave_out(backend.engine, scorer)
    v, w, v_offsets, w_offsets = Problem(scorer, (4, 2, 4), (3, 1, 5), 8).tensors()
    v[1], w[2], v[6:] = 0, 0, v[6]
    expected = pair_score(v, w, v_offsets, w_offsets, scorer=scorer, engine="reference")
    for dtype, limit in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        device = [x.to(backend.device, dtype) for x in (v, w)]
        actual = pair_score(*device, v_offsets, w_offsets, scorer=scorer, engine=backend.engine)
        assert error(actual.double().cpu(), expected) <= limit


def test_hard_takes_the_first_of_equals(backend: Backend) -> None:
    """Exact arithmetic: two equal regions, and the gradient goes to the first alone."""
    scorer = PairScorer(t2i=Attention(attend="hard", relevance="dot"))
    leave_out(backend.engine, scorer)
    v = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]], device=backend.device, requires_grad=True)
    w = torch.tensor([[1.0, 0.0], [2.0, 0.0]], device=backend.device)
    pair_score(v, w, offsets((3,)), offsets((2,)), scorer=scorer, engine=backend.engine).sum().backward()
    assert v.grad.cpu().tolist() == [[0.0, 0.0], [1.5, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("scorer", PRESETS.values(), ids=PRESETS)
def test_an_overflow_is_never_a_score(scorer: PairScorer, backend: Backend) -> None:
    leave_out(backend.engine, scorer)
    v, w = torch.full((2, 4), 1e18), torch.full((3, 4), 1.0)
    v[1] /= 2
    w[1] *= 1e21
    v, w = v.to(backend.device), w.to(backend.device)
    out = pair_score(v, w, offsets((2,)), offsets((3,)), scorer=scorer, engine=backend.engine)
    assert not torch.isfinite(out).all()


@pytest.mark.parametrize(
    "scorer", [*PRESETS.values(), PairScorer.maxsim(), PairScorer.chan()], ids=[*PRESETS, "maxsim", "chan"]
)
@pytest.mark.parametrize("place", [0, 1, 20])
def test_nan_is_never_passed_over(scorer: PairScorer, place: int, backend: Backend) -> None:
    """A largest of numbers one of which is none, first or last of them, is none."""
    leave_out(backend.engine, scorer)
    v, w, v_offsets, w_offsets = (x.to(backend.device) for x in Problem(scorer, (21, 2), (3, 18, 1), 8).tensors())
    v[place] = torch.nan
    out = pair_score(v, w, v_offsets.cpu(), w_offsets.cpu(), scorer=scorer, engine=backend.engine)
    assert out[0].isnan().all()
    assert out[1].isfinite().all()


OPTIONS = {"norm": NORMS, "aggregate": AGGREGATES, "attend": ATTENDS, "relevance": RELEVANCES}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", ["native", "triton", "cuda"])
def test_an_engine_that_lacks_an_option_is_refused_and_auto_takes_another(
    name: str, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing, *_, known = OPTIONS[option]
    monkeypatch.setitem(engines.MISSING_OPTIONS, name, {option: (missing,)})
    monkeypatch.setattr(engines, "fastest", lambda *_: name)
    options = {"norm": "l1norm", "aggregate": "max", "attend": "hard", "relevance": "dot"}
    for direction in ("t2i", "i2t"):
        for value, expected in ((missing, f"{option}={missing!r} ({direction})"), (known, None)):
            attention = Attention(**{**options, option: value} if value != "negative_aware" else {option: value})
            config = PairScorer(**{direction: attention}).config()
            assert engines.lacks(name, config) == expected
            assert engines.choose("cuda", "pair_score", config) == (name if expected is None else "eager")
    assert engines.lacks(name, PairScorer(alignment=1.0).config()) is None  # an absent direction asks for nothing
    assert engines.lacks("eager", PairScorer(Attention(**{option: missing})).config()) is None


@pytest.mark.parametrize("name", ["native", "triton", "cuda"])
def test_every_entry_says_which_option_the_engine_lacks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = engines.get("eager")
    monkeypatch.setattr(engines, "unavailable", lambda *_: None)
    monkeypatch.setattr(engines, "_module", lambda _: module)
    monkeypatch.setattr(engines, "_devices", lambda _: None)
    monkeypatch.setitem(engines.MISSING_OPTIONS, name, {"attend": ("focal_prob", "hard")})
    message = f"^engine '{name}' cannot run here: it has no attend='hard' .t2i.. Ask for engine="
    with pytest.raises(engines.EngineUnavailable, match=message):
        engines.get(name, None, "pair_score", PairScorer.maxsim().config())
    features = torch.ones(2, 3, 4)
    with pytest.raises(engines.EngineUnavailable, match=message):
        score_matrix(features, features, scorer=PairScorer.maxsim(), engine=name)
    with pytest.raises(engines.EngineUnavailable, match=message):
        pair_score(features[0], features[0], offsets((3,)), offsets((3,)), scorer=PairScorer.maxsim(), engine=name)


def test_opcheck(backend: Backend) -> None:
    scorer = PairScorer(Attention(attend="negative_aware", threshold=0.2), Attention(steps=2, attend="focal_prob"))
    leave_out(backend.engine, scorer)
    v, w, v_offsets, w_offsets = Problem(scorer, (5, 1, 7), (3, 2), 8).tensors()
    leaves = [x.to(backend.device, torch.float32).requires_grad_() for x in (v, w)]
    scalars = torch.tensor(scorer.scalars(), requires_grad=True)
    arguments = (*leaves, v_offsets, w_offsets, scalars, scorer.config(), backend.engine, "float32")
    torch.library.opcheck(torch.ops.cmsei_fast.pair_score.default, arguments)


@pytest.mark.parametrize(
    "config",
    [
        PairScorer.naaf().config()[:11],
        [*PairScorer.naaf().config()[:11], 5, 0, 0, 0],
        [*PairScorer.naaf().config()[:11], 4, 1, 0, 0],
        [*PairScorer.naaf().config()[:11], 4, 0, 1, 0],
        [1, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0],
    ],
    ids=["short", "attend", "aware-dot", "absent-direction", "aware-steps"],
)
def test_a_config_that_no_scorer_has(config: list[int]) -> None:
    v, w, v_offsets, w_offsets = Problem(PairScorer.naaf(), (2,), (3,), 4).tensors()
    scalars = torch.ones(11, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"^config: expected PairScorer.config"):
        torch.ops.cmsei_fast.pair_score(v, w, v_offsets, w_offsets, scalars, config, "reference", "float64")


def test_a_threshold_is_learned() -> None:
    """The module's numbers hold the threshold at their end, and descent raises a threshold that mismatches pay for."""
    module = PairScore(PairScorer.naaf(0.9), engine="eager")
    v, w, v_offsets, w_offsets = Problem(PairScorer.naaf(), (4, 3), (3, 2), 8).tensors()
    out = module(v.float(), w.float(), v_offsets, w_offsets).sum()
    out.backward()
    assert module.gate_shift.grad is not None
    assert module.gate_shift.grad.tolist()[0] < 0
    with torch.no_grad():
        module.gate_shift += 0.05
    assert module.scorer == PairScorer.naaf(module.scorer.t2i.threshold)
    assert abs(module.scorer.t2i.threshold - 0.95) < 1e-6


def test_scalars_of_both_thresholds_follow_the_gates() -> None:
    scorer = PairScorer(
        Attention(attend="negative_aware", threshold=0.2), Attention(steps=2, gates=((1.0, 0.5),)), alignment=1.0
    )
    assert scorer.scalars()[10:] == [1.0, 0.5, 0.2]
    twice = PairScorer(scorer.t2i, dataclasses.replace(scorer.t2i, threshold=-0.25))
    assert twice.scalars()[10:] == [0.2, -0.25]
    for s in (scorer, twice):
        assert s.with_scalars(s.scalars()) == s
        assert PairScorer.from_dict(s.to_dict()) == s
        assert s.with_scalars([*s.scalars()[:-1], 0.75]).scalars()[-1] == 0.75
