"""Shapes, strides and options drawn at random (with fixed seeds): every engine against the reference in float64."""

from __future__ import annotations

import torch
from conftest import BACKENDS, Backend
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from problems import DECIDED, Problem, error, literal, magnitude, margin, truth
from torch import Tensor

from cmsei_fast import engines
from cmsei_fast.ops import pair_score, relation_attention
from cmsei_fast.scorer import AGGREGATES, ATTENDS, NORMS, RELEVANCES, Attention, PairScorer

FUZZ = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)
STRIDES = ("contiguous", "transposed", "every-other", "wider-rows", "reversed-order")

weights = st.sampled_from([0.0, 0.5, 1.0, 2.0])
temperatures = st.sampled_from([1.0, 4.0, 9.0, 20.0])


@st.composite
def attentions(draw: st.DrawFn) -> Attention:
    attend = draw(st.sampled_from(("softmax", *ATTENDS)))
    aware = attend == "negative_aware"
    steps = 1 if aware else draw(st.integers(1, 4))
    gate = st.tuples(st.floats(-3, 3, width=16), st.floats(-3, 3, width=16))
    gates = tuple(draw(st.lists(gate, min_size=steps - 1, max_size=steps - 1)))
    return Attention(
        draw(weights),
        draw(temperatures),
        draw(st.sampled_from(NORMS)),
        draw(st.sampled_from(AGGREGATES)),
        draw(temperatures),
        steps,
        gates,
        attend,
        "cosine" if aware else draw(st.sampled_from(RELEVANCES)),
        draw(st.floats(-0.5, 1, width=16)),
    )


@st.composite
def scorers(draw: st.DrawFn) -> PairScorer:
    levels = draw(st.tuples(weights, weights, weights))
    t2i, i2t = draw(st.none() | attentions()), draw(st.none() | attentions())
    if not any(levels) and not any(a is not None and a.weight for a in (t2i, i2t)):
        levels = (0.0, 0.0, 1.0)
    return PairScorer(t2i, i2t, *levels, guide_temperature=draw(temperatures))


def problems() -> st.SearchStrategy[Problem]:
    regions, words = st.integers(1, 40), st.integers(1, 20)
    return st.builds(
        Problem,
        scorers(),
        st.lists(regions, min_size=1, max_size=5).map(tuple),
        st.lists(words, min_size=1, max_size=5).map(tuple),
        st.integers(4, 33),
        st.integers(0, 2**16),
    )


def with_strides(x: Tensor, kind: str) -> Tensor:
    """The same values in another memory layout; what lies between is NaN."""
    if kind == "transposed":
        return x.T.contiguous().T
    if kind == "every-other":
        return torch.stack([x, torch.full_like(x, torch.nan)], -1).flatten(-2)[..., ::2]
    if kind == "wider-rows":
        return torch.cat([x, torch.full_like(x[:, :3], torch.nan)], 1)[:, : x.shape[1]]
    if kind == "reversed-order":
        return x.flip(0).contiguous().flip(0)
    return x.contiguous()


@FUZZ
@given(problems(), st.sampled_from(BACKENDS), st.sampled_from(STRIDES), st.sampled_from(STRIDES), st.booleans())
def test_pair_score(problem: Problem, backend: Backend, v_strides: str, w_strides: str, wide: bool) -> None:
    assume(engines.lacks(backend.engine, problem.scorer.config()) is None)
    assume(margin(problem) >= DECIDED)
    dtype = torch.float64 if wide else torch.float32
    v, w, v_offsets, w_offsets = problem.tensors()
    v = with_strides(v.to(backend.device, dtype), v_strides).requires_grad_()
    w = with_strides(w.to(backend.device, dtype), w_strides).requires_grad_()
    scalars = torch.tensor(problem.scorer.scalars(), dtype=torch.float64, requires_grad=True)
    leaves = [v, w, scalars]
    expected = truth(problem)
    with backend.forced():
        out = pair_score(v, w, v_offsets, w_offsets, scorer=problem.scorer, scalars=scalars, engine=backend.engine)
        grads = torch.autograd.grad(out, leaves, problem.upstream().to(out))
    limit = 1e-12 if wide else 1e-5
    assert error(out.detach().double().cpu(), expected.scores) <= limit * magnitude(expected.scores)
    by_pytorch = literal(problem, dtype).gradients()
    for g, (name, e) in zip(grads, expected.gradients().items(), strict=True):
        limit = 1e-9 if wide else 1e-4
        assert error(g.double().cpu(), e) <= 2 * error(by_pytorch[name], e) + limit * magnitude(e), name


@FUZZ
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 40), st.integers(1, 33), st.integers(1, 20)),
    st.sampled_from(BACKENDS),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.permutations(range(4)),
    st.floats(0, 1),
    st.integers(0, 2**16),
)
def test_relation_attention(
    shape: tuple[int, ...],
    backend: Backend,
    options: tuple[bool, ...],
    order: list[int],
    density: float,
    seed: int,
) -> None:
    b, h, r, d, n = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    back = sorted(range(4), key=order.__getitem__)
    qkv = [normal(b, h, r, d).permute(order).contiguous().permute(back) for _ in range(3)]
    labels = torch.randint(0, n, (b, r, r), generator=generator)
    labels[torch.rand(b, r, r, generator=generator) > density] = 0
    confidence = 1 - 0.9 * torch.rand(b, r, r, generator=generator)
    rest = [x if keep else None for keep, x in zip(options, (normal(n, h), normal(n, h, d), confidence), strict=True)]
    found = []
    for engine, device, dtype in (("reference", "cpu", torch.float64), (backend.engine, backend.device, torch.float32)):
        leaves = [None if x is None else x.to(device, dtype).requires_grad_() for x in (*qkv, *rest)]
        with backend.forced():
            out = relation_attention(*leaves[:3], labels.to(device), *leaves[3:], engine=engine)
            grads = torch.autograd.grad(out.square().sum(), [x for x in leaves if x is not None])
        found.append([x.detach().double().cpu() for x in (out, *grads)])
    for expected, actual in zip(*found, strict=True):
        assert error(actual, expected) <= 1e-5 * magnitude(expected)
