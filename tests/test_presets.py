"""Each preset against a form written from its paper, one pair at a time, with loops; and scorers saved before."""

from __future__ import annotations

import json
import math

import pytest
import torch
from conftest import leave_out
from problems import Problem, features, offsets
from torch import Tensor

from cmsei_fast.nn import PairScore
from cmsei_fast.ops import pair_score
from cmsei_fast.scorer import Attention, PairScorer


def cos(x: Tensor, y: Tensor) -> Tensor:
    return x @ y / max(float(x.norm() * y.norm()), 1e-8)


def scan_weights(q: Tensor, c: Tensor, temperature: float) -> Tensor:
    """SCAN eq. 1 and 2: leaky cosines, normalised over the queries, softmax over the context (n, m)."""
    a = torch.stack([torch.stack([x @ y for y in c]) for x in q])
    a = torch.where(a > 0, a, 0.1 * a)
    a = torch.stack([column / (column.square().sum().sqrt() + 1e-8) for column in a.T], 1)
    e = (temperature * a).exp()
    return e / e.sum(1, keepdim=True)


def scan_relevances(q: Tensor, c: Tensor, temperature: float) -> Tensor:
    p = scan_weights(q, c, temperature)
    return torch.stack([cos(x, sum(p[i, j] * y for j, y in enumerate(c))) for i, x in enumerate(q)])


def lse(r: Tensor, temperature: float) -> Tensor:
    return (temperature * r).exp().sum().log() / temperature


def scan_both(v: Tensor, w: Tensor) -> Tensor:
    return (scan_relevances(w, v, 9).mean() + lse(scan_relevances(v, w, 4), 5)) / 2


def laps(v: Tensor, w: Tensor) -> Tensor:
    return 0.5 * (scan_relevances(w, v, 9).mean() + scan_relevances(v, w, 4).mean())


def imram_first_step(v: Tensor, w: Tensor) -> Tensor:
    return scan_relevances(w, v, 9).mean() + scan_relevances(v, w, 9).mean()


def focal(q: Tensor, c: Tensor, confidence: str) -> Tensor:
    """BFAN eq. 4 to 8: pre-assigned attention, F(x_j) = Σ_t f(x_j, x_t) g(x_t), kept where positive, re-assigned."""
    relevances = []
    for x, p in zip(q, scan_weights(q, c, 20), strict=True):
        g = [1.0 if confidence == "equal" else math.sqrt(t) for t in p.tolist()]
        kept = [sum((float(p[j]) - float(p[t])) * g[t] for t in range(len(c))) > 0 for j in range(len(c))]
        if len(c) == 1:
            kept = [True]
        total = sum(p[j] for j in range(len(c)) if kept[j])
        relevances.append(cos(x, sum(p[j] / total * c[j] for j in range(len(c)) if kept[j])))
    return torch.stack(relevances).mean()


def bfan_equal(v: Tensor, w: Tensor) -> Tensor:
    return focal(w, v, "equal") + focal(v, w, "equal")


def bfan_prob(v: Tensor, w: Tensor) -> Tensor:
    return focal(w, v, "prob") + focal(v, w, "prob")


def naaf(v: Tensor, w: Tensor, threshold: float = 0.3) -> Tensor:
    """NAAF's score at test time: negative branch with intra-modal propagation, both parts of the positive branch."""
    s = w @ v.T  # (L, R)
    worst = [max(float(x) for x in row) - threshold for row in s]
    intra = torch.stack([(5 * torch.stack([x @ y for y in w])).softmax(0) for x in w])
    relevance_weights = scan_weights(w, v, 20)
    total = torch.zeros((), dtype=s.dtype)
    for i, x in enumerate(w):
        propagated = sum(float(intra[i, k]) * worst[k] for k in range(len(w)))
        negative = worst[i] if propagated < 0 else 0.0
        raised = [float((20 * (t - threshold)).exp()) if t > threshold else 0.0 for t in s[i]]
        attended = sum(e / (sum(raised) + 1e-8) * y for e, y in zip(raised, v, strict=True))
        total = total + negative + cos(x, attended) + (relevance_weights[i] * s[i]).sum()
    return total / len(w)


def chan(v: Tensor, w: Tensor) -> Tensor:
    """CHAN: hard assignment coding, then log-sum-exp pooling of the words' similarities at temperature 0.1."""
    return torch.stack([max(x @ y for y in v) / 0.1 for x in w]).logsumexp(0)


def maxsim(v: Tensor, w: Tensor) -> Tensor:
    """ColBERT eq. 3, TERAN's MrSw."""
    return sum(max(x @ y for y in v) for x in w)


def teran_average(v: Tensor, w: Tensor) -> Tensor:
    """TERAN's MrAVGw."""
    return maxsim(v, w) / len(w)


def gloria(v: Tensor, w: Tensor) -> Tensor:
    """GLoRIA's local similarity, AttnGAN's DAMSM: softmax over words, then over regions at 4; log Σ exp(5 cos)."""
    relevances = []
    over_words = torch.stack([torch.stack([x @ y for x in w]).softmax(0) for y in v])  # (R, L)
    for i, x in enumerate(w):
        p = (4 * over_words[:, i]).softmax(0)
        relevances.append(cos(x, sum(p[j] * y for j, y in enumerate(v))))
    return (5 * torch.stack(relevances)).exp().sum().log()


CASES = {
    "gloria": (PairScorer(t2i=Attention(5.0, 4.0, "softmax", "lse", 5.0)), gloria),
    "scan_both": (PairScorer.scan_both(), scan_both),
    "laps": (PairScorer.laps(), laps),
    "bfan_equal": (PairScorer.bfan(), bfan_equal),
    "bfan_prob": (PairScorer.bfan("prob"), bfan_prob),
    "naaf": (PairScorer.naaf(0.3), naaf),
    "chan": (PairScorer.chan(), chan),
    "maxsim": (PairScorer.maxsim(), maxsim),
    "maxsim_mean": (PairScorer.maxsim("mean"), teran_average),
    "imram_first_step": (PairScorer.imram_first_step(), imram_first_step),
}


@pytest.mark.parametrize(("scorer", "form"), CASES.values(), ids=CASES)
def test_preset_is_the_papers_form(scorer: PairScorer, form, engine: str) -> None:
    lengths, words = (5, 3, 12), (4, 2, 7)
    generator = torch.Generator().manual_seed(16)
    v, w = (features(sum(n), 10, generator) for n in (lengths, words))
    if "maxsim" not in form.__name__ and "teran" not in form.__name__:  # dot products of vectors of any length
        v, w = (x / x.norm(dim=1, keepdim=True) for x in (v, w))
    expected = torch.stack([torch.stack([form(a, b) for b in w.split(words)]) for a in v.split(lengths)])
    for name in ("reference", engine):
        out = pair_score(v, w, offsets(lengths), offsets(words), scorer=scorer, engine=name)
        torch.testing.assert_close(out, expected, atol=1e-7, rtol=0)


def test_the_naaf_case_has_every_branch() -> None:
    """Words that match and words that do not, and one that its neighbours overrule."""
    generator = torch.Generator().manual_seed(16)
    v, w = (features(n, 10, generator) for n in (20, 13))
    v, w = (x / x.norm(dim=1, keepdim=True) for x in (v, w))
    seen = set()
    for a in v.split((5, 3, 12)):
        for b in w.split((4, 2, 7)):
            best = (b @ a.T).amax(1) - 0.3
            agreed = (5 * b @ b.T).softmax(1) @ best
            seen |= set(zip((best < 0).tolist(), (agreed < 0).tolist(), strict=True))
    assert seen == {(False, False), (True, True), (True, False), (False, True)}


@pytest.mark.parametrize("focal_name", ["Equal", "", None, 1])
def test_bfan_has_two_forms(focal_name: object) -> None:
    with pytest.raises(ValueError, match=r"^focal: expected 'equal' or 'prob', got "):
        PairScorer.bfan(focal_name)  # type: ignore[arg-type]


SAVED = (
    '{"t2i": {"weight": 0.5, "temperature": 7.0, "norm": "l1norm", "aggregate": "lse", "lse_temperature": 5.0, '
    '"steps": 2, "gates": [[1.0, -1.0]]}, "i2t": null, "object_sentence": 0.25, "word_image": 0.0, "alignment": 1.5, '
    '"guide_temperature": 4.0}'
)


def test_a_scorer_saved_before_these_options_is_read_as_it_was() -> None:
    scorer = PairScorer.from_dict(json.loads(SAVED))
    expected = PairScorer(
        Attention(0.5, 7.0, "l1norm", "lse", 5.0, 2, ((1.0, -1.0),)),
        object_sentence=0.25,
        alignment=1.5,
        guide_temperature=4.0,
    )
    assert scorer == expected
    assert scorer.config() == [1, 3, 3, 2, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0]
    assert scorer.scalars() == [0.5, 0, 0.25, 0, 1.5, 4, 7, 5, 9, 6, 1, -1]
    initial = torch.tensor(scorer.scalars())
    state = {"initial": initial, "log_scale": torch.full((10,), 0.5), "gate_shift": torch.ones(2)}
    module = PairScore(scorer)
    module.load_state_dict(state)
    assert module.scorer.t2i.gates == ((2.0, 0.0),)


def test_one_word_and_one_region_are_kept_by_a_focal_attention(engine: str) -> None:
    """The published code divides 0 by 0 where the context is one item."""
    problem = Problem(PairScorer.bfan(), (1, 3), (1, 2), 8)
    leave_out(engine, problem.scorer)
    v, w, v_offsets, w_offsets = problem.tensors()
    out = pair_score(v, w, v_offsets, w_offsets, scorer=problem.scorer, engine=engine)
    assert torch.isfinite(out).all()
    torch.testing.assert_close(out[0, 0], 2 * cos(v[0], w[0]))


def test_weights_of_tokens_are_multiplied_in(engine: str) -> None:
    """DRL's weighted token-wise interaction as the document has it, either side."""
    generator = torch.Generator().manual_seed(3)
    v, w = (features(n, 10, generator) for n in (8, 7))
    of_v, of_w = (torch.rand(n, generator=generator, dtype=torch.float64) for n in (8, 7))
    ends = offsets((8,)), offsets((7,))
    largest = PairScorer.maxsim()
    for given, expected in (
        ((v, w * of_w[:, None], *ends, largest), (of_w * (w @ v.T).amax(1)).sum()),
        ((v * of_v[:, None], w, *ends, PairScorer(i2t=largest.t2i)), (of_v * (w @ v.T).amax(0)).sum()),
    ):
        out = pair_score(*given[:4], scorer=given[4], engine=engine)
        torch.testing.assert_close(out[0, 0], expected, atol=1e-7, rtol=0)
