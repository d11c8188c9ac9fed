"""Vectors that cancel out, or are zero: what every engine gives for them."""

from __future__ import annotations

import torch
from problems import Problem, error
from torch import Tensor

from cmsei_fast.ops import pair_score
from cmsei_fast.scorer import Attention, PairScorer


def check_opposite_vectors(norm: str, aggregate: str, engine: str, dtype: torch.dtype) -> None:
    """Opposite vectors, whose sum is 0: what their rounding leaves of it is no vector of any length."""
    attention = Attention(norm=norm, aggregate=aggregate, steps=3)
    scorer = PairScorer(attention, attention, object_sentence=1.0, word_image=1.0, alignment=1.0)
    v, w, v_offsets, w_offsets = Problem(scorer, (2, 3, 1), (4, 2, 5), 7).tensors()
    v[1], v[3:5], w[4:6] = -v[0], v[2], torch.stack([w[6], -w[6]])
    w[1:4] = w[0]  # attends evenly to opposite regions under a softmax
    v, w = v.to(dtype), w.to(dtype)
    expected = pair_score(v.double(), w.double(), v_offsets, w_offsets, scorer=scorer, engine="reference")
    precision = str(dtype).removeprefix("torch.")
    actual = pair_score(v, w, v_offsets, w_offsets, scorer=scorer, engine=engine, precision=precision)
    assert error(actual.double(), expected) <= 1e-3


def equal_length_problem(count: int, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``Problem.tensors`` of ``count`` images of 36 regions and ``count`` captions of ``length`` words, 64 wide."""
    return Problem(PairScorer.cmsei(), (36,) * count, (length,) * count, 64).tensors()


def without_a_mean(x: Tensor, items: int) -> Tensor:
    """Subtracts each item's mean from its rows (all items have as many): the new mean is rounding error alone."""
    rows = x.view(items, -1, x.shape[1])
    return (rows - rows.mean(1, keepdim=True)).flatten(0, 1)


def check_regions_without_a_mean(length: int, engine: str, dtype: torch.dtype, count: int = 6) -> None:
    """A mean that is rounding error alone has an arbitrary direction; cosines with it must still be cosines."""
    v, w, v_offsets, w_offsets = equal_length_problem(count, length)
    few = v.view(count, 36, 64)[:, :12].to(dtype).double()
    precision = str(dtype).removeprefix("torch.")
    for same in (without_a_mean(v, count), torch.cat([few, few, -2 * few], 1).flatten(0, 1)):
        regions = same.to(dtype)
        for scorer, largest in (
            (PairScorer.cmsei(), 5),
            (PairScorer(None, None, object_sentence=1.0, word_image=1.0, alignment=1.0), 3),
            (PairScorer(alignment=1.0), 1),
            (PairScorer(Attention(norm="softmax", steps=3)), 1),
        ):
            given = regions, w.to(dtype), v_offsets, w_offsets
            scores = pair_score(*given, scorer=scorer, engine=engine, precision=precision)
            assert scores.isfinite().all()
            assert scores.abs().max() <= largest + 1e-5


def check_gradients_without_a_mean(steps: int, engine: str, count: int = 6) -> None:
    """A word that attends to all regions equally is refined at each step by a vector that is rounding error alone."""
    v, w, v_offsets, w_offsets = equal_length_problem(count, 1)
    sides = [x.float().requires_grad_() for x in (without_a_mean(v, count), w)]
    scores = pair_score(
        *sides, v_offsets, w_offsets, scorer=PairScorer(Attention(norm="softmax", steps=steps)), engine=engine
    )
    scores.sum().backward()
    assert scores.abs().max() <= 1 + 1e-5
    for x in sides:
        assert x.grad is not None
        assert x.grad.abs().max() <= 1e8  # 1 / ε; NaN is above it


def check_dots_of_refined_queries(attend: str, norm: str, engine: str, steps: int = 4) -> None:
    """A refined query's inner product is within its length times the attended vector's, at most the context's longest.

    Queries attend alike to vectors that are at right angles to them and cancel out. Gates near 1 leave them what
    rounding alone is, and each step multiplies it.
    """
    gates = ((0.0, 30.0),) * (steps - 1)
    attention = Attention(norm=norm, attend=attend, relevance="dot", aggregate="max", steps=steps, gates=gates)
    for scorer in (PairScorer(attention), PairScorer(None, attention)):
        v, w, *others = Problem(scorer, (12, 12), (12, 12), 7).tensors()
        queries, context = (v, w) if scorer.t2i is None else (w, v)
        queries[:, 0], context[:, 1:] = 0, 0
        for item in context.view(2, 12, 7):
            item[6:] = -item[:6].roll(1, 0)
        sides = [x.float().requires_grad_() for x in (v, w)]
        scores = pair_score(*sides, *others, scorer=scorer, engine=engine)
        assert scores.abs().max() <= context.abs().max() + 1e-5  # NaN is above it
        for gradient in torch.autograd.grad(scores.sum(), sides):
            assert gradient.isfinite().all()


def check_gradients_across_levels_without_a_mean(side: str, engine: str) -> None:
    """A mean that is rounding alone: what is asked of it, guided by it and aligned with it has slopes within 1 / ε."""
    guided = Attention(norm="clipped_l2norm", aggregate="guided")
    v, w, v_offsets, w_offsets = equal_length_problem(6, 12)
    v, w = v if side == "words" else without_a_mean(v, 6), w if side == "regions" else without_a_mean(w, 6)
    for scorer in (
        PairScorer(alignment=1.0),
        PairScorer(object_sentence=1.0, word_image=1.0),
        PairScorer(guided, guided),
        PairScorer.cmsei(),
    ):
        sides = [y.float().requires_grad_() for y in (v, w)]
        scores = pair_score(*sides, v_offsets, w_offsets, scorer=scorer, engine=engine)
        for gradient in torch.autograd.grad(scores.sum(), sides):
            assert gradient.abs().max() <= 1e8  # NaN is above it


def check_gradients_of_zero_vectors(steps: int, engine: str) -> None:
    """A zero word that asks an image of zeros: a refinement has slopes of 1 / ε², three of infinity in float32."""
    attention = Attention(norm="clipped_l2norm", steps=steps)
    scorer = PairScorer(attention, attention)
    v, w, *others = Problem(scorer, (3, 1, 4), (2, 1, 5), 8).tensors()
    v[:4], w[2:4] = 0, 0  # two images, a caption and the first word of another
    found = []
    for dtype, own in ((torch.float64, "reference"), (torch.float32, engine)):
        leaves = [x.to(dtype).requires_grad_() for x in (v, w, torch.tensor(scorer.scalars()))]
        scores = pair_score(*leaves[:2], *others, scorer=scorer, scalars=leaves[2], engine=own)
        found.append([x.double() for x in torch.autograd.grad(scores.sum(), leaves)])
    for expected, actual in zip(*found, strict=True):
        size = expected.norm(dim=-1, keepdim=True).clamp(min=1)
        assert error(actual / size, expected / size) <= 1e-4
