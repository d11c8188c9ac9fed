"""The pair score's gradients for regions, words and every scalar: against the reference, PyTorch and differences."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from conftest import Backend
from problems import (
    NANS,
    Problem,
    computed,
    error,
    every_direction,
    literal,
    magnitude,
    name,
    nan,
    one_direction,
    thinned,
    truth,
    whole_scores,
)

from cmsei_fast import engines
from cmsei_fast.engines import triton
from cmsei_fast.ops import pair_score
from cmsei_fast.scorer import AGGREGATES, NORMS, PairScorer

pytestmark = pytest.mark.usefixtures("poisoned")

PROBLEMS = every_direction() + whole_scores()
LOW_PRECISION = thinned(6)
# In float32 the Gram form loses digits where a query hangs between two contexts: 7e-5 in one of these, usually 1e-6.
FLOOR = {torch.float32: 1e-4, torch.bfloat16: 4e-3, torch.float16: 1e-3}


def check_against_pytorch(problem: Problem, dtype: torch.dtype, backend: Backend) -> None:
    """No gradient errs by more than twice what the literal form errs in the same dtype, plus a rounding floor."""
    expected = truth(problem).gradients()
    by_pytorch = literal(problem, dtype).gradients()
    actual = computed(problem, backend.engine, dtype, device=backend.device).gradients()
    for key, value in expected.items():
        limit = 2 * error(by_pytorch[key], value) + FLOOR[dtype] * magnitude(value)
        assert error(actual[key], value) <= limit, key


@pytest.mark.parametrize("problem", PROBLEMS, ids=name)
def test_float64_against_reference(problem: Problem, backend: Backend) -> None:
    actual = computed(problem, backend.engine, torch.float64, device=backend.device).gradients()
    for key, value in truth(problem).gradients().items():
        assert error(actual[key], value) <= 1e-10 * magnitude(value), key


@pytest.mark.parametrize("problem", PROBLEMS, ids=name)
def test_float32_against_pytorch(problem: Problem, backend: Backend) -> None:
    check_against_pytorch(problem, torch.float32, backend)


def gradients_with(
    problem: Problem, side: str, made_by: str, engine: str, device: str, dtype: torch.dtype
) -> list[list[torch.Tensor]]:
    """Of each image and each caption, float64 on the CPU, where the side has a number that is not finite ("": none)."""
    v, w, *both = Problem(problem.scorer, (3, 5, 2), (2, 4, 3), 6).tensors()
    upstream = problem.upstream()[:1, :1] + torch.arange(1.0, 10.0, dtype=torch.float64).view(3, 3)
    leaves = [x.to(dtype, copy=True) for x in (v, w)]
    if made_by:
        bad = torch.tensor(float(made_by), dtype=dtype) if made_by.endswith("inf") else nan(made_by, dtype)
        leaves[side == "caption"][4, 2] = bad
    leaves = [x.to(device).requires_grad_() for x in leaves]
    scores = pair_score(*leaves, *both, scorer=problem.scorer, engine=engine)
    grads = torch.autograd.grad(scores, leaves, upstream.to(scores))
    return [[y.double().cpu() for y in x.split(of.diff().tolist())] for x, of in zip(grads, both, strict=True)]


@functools.cache
def defined(problem: Problem, side: str, made_by: str) -> list[list[torch.Tensor]]:
    """The same by the reference, all in float64."""
    return gradients_with(problem, side, made_by, "reference", "cpu", torch.float64)


@pytest.mark.parametrize("made_by", [*NANS, "inf", "-inf"])
@pytest.mark.parametrize("side", ["image", "caption"])
@pytest.mark.parametrize("problem", every_direction()[4::30] + whole_scores()[:2], ids=name)
def test_gradients_of_what_is_not_finite(problem: Problem, side: str, made_by: str, backend: Backend) -> None:
    """It and what was scored with it have the definition's gradients, none; others of its side have their own."""
    clean, expected = defined(problem, "", ""), defined(problem, side, made_by)
    actual = gradients_with(problem, side, made_by, backend.engine, backend.device, torch.float32)
    for i, (own, other) in enumerate(zip(expected, actual, strict=True)):
        assert [bool(x.isfinite().all()) for x in own] == [bool(x.isfinite().all()) for x in other]
        for x, y in zip(clean[i], other, strict=True):
            assert not y.isfinite().all() or error(y, x) <= 1e-3 * magnitude(x)


def test_float32_is_usually_much_better(backend: Backend) -> None:
    off = []
    for problem in (x for x in PROBLEMS if engines.lacks(backend.engine, x.scorer.config()) is None):
        actual = computed(problem, backend.engine, torch.float32, device=backend.device).gradients()
        off += [error(actual[key], value) / magnitude(value) for key, value in truth(problem).gradients().items()]
    found = torch.tensor(off).quantile(torch.tensor([0.5, 0.95, 0.99]))
    assert (found <= torch.tensor([1e-6, 5e-6, 1e-5])).all(), found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("problem", LOW_PRECISION, ids=name)
def test_low_precision_against_pytorch(problem: Problem, dtype: torch.dtype, backend: Backend) -> None:
    check_against_pytorch(problem, dtype, backend)


GRADCHECK = [
    one_direction(direction, norm, AGGREGATES[i % len(AGGREGATES)], 1 + i % 3)
    for i, (norm, direction) in enumerate(itertools.product(NORMS, ("t2i", "i2t")))
]


@pytest.mark.parametrize(
    "problem", [Problem(s, (3, 1), (2, 4), 3, seed=7) for s in [*GRADCHECK, PairScorer.cmsei()]], ids=name
)
def test_gradcheck(problem: Problem, engine: str) -> None:
    v, w, v_offsets, w_offsets = problem.tensors()
    scalars = torch.tensor(problem.scorer.scalars(), dtype=torch.float64)

    def scores(*leaves: torch.Tensor) -> torch.Tensor:
        return pair_score(*leaves[:2], v_offsets, w_offsets, scorer=problem.scorer, scalars=leaves[2], engine=engine)

    assert torch.autograd.gradcheck(scores, [x.requires_grad_() for x in (v, w, scalars)], eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2)], ids=str)
def test_gradients_one_at_a_time(wanted: tuple[int, ...], backend: Backend) -> None:
    problem = Problem(PairScorer.cmsei(), (5, 1), (3, 2), 8)
    v, w, v_offsets, w_offsets = problem.tensors()
    leaves = [v.to(backend.device), w.to(backend.device), torch.tensor(problem.scorer.scalars(), dtype=v.dtype)]
    for i in wanted:
        leaves[i].requires_grad_()
    out = pair_score(*leaves[:2], v_offsets, w_offsets, scorer=problem.scorer, scalars=leaves[2], engine=backend.engine)
    out.backward(problem.upstream().to(out))
    expected = list(truth(problem).gradients().values())
    for i, leaf in enumerate(leaves):
        assert (leaf.grad is not None) == (i in wanted)
        if leaf.grad is not None:
            assert leaf.grad.dtype == leaf.dtype
            assert leaf.grad.device == leaf.device
            assert error(leaf.grad.cpu(), expected[i]) <= 1e-10 * magnitude(expected[i])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_gradients_have_the_dtypes_of_their_inputs(dtype: torch.dtype, backend: Backend) -> None:
    problem = Problem(PairScorer.scan_t2i(), (5, 1), (3, 2), 8)
    v, w, v_offsets, w_offsets = problem.tensors()
    scalars = torch.tensor(problem.scorer.scalars(), dtype=torch.float64, requires_grad=True)
    leaves = [x.to(backend.device, dtype).requires_grad_() for x in (v, w)]
    out = pair_score(
        *leaves,
        v_offsets,
        w_offsets,
        scorer=problem.scorer,
        scalars=scalars,
        engine=backend.engine,
        precision="float16",
    )
    assert out.dtype == torch.float32
    out.sum().backward()
    assert leaves[0].grad.dtype == leaves[1].grad.dtype == dtype
    assert scalars.grad.dtype == torch.float64


def test_an_expanded_gradient(backend: Backend) -> None:
    """The gradient of a sum has strides of 0."""
    problem = Problem(PairScorer.cmsei(), (5, 1, 7), (3, 2), 8)
    v, w, v_offsets, w_offsets = problem.tensors()
    found = []
    for weight in (torch.ones(()), torch.ones(3, 2)):
        leaves = [x.to(backend.device).requires_grad_() for x in (v, w)]
        out = pair_score(*leaves, v_offsets, w_offsets, scorer=problem.scorer, engine=backend.engine)
        found.append(torch.autograd.grad(out, leaves, weight.to(out).expand(3, 2)))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


# Images and captions of 72 pairs; every padded size among the 16 that the interpreter, which takes long, has.
MANY = (36, 5, 1, 37, 7, 2, 14, 20, 3), (13, 1, 3, 17, 2, 30, 5, 8)
if triton.interpreted():
    MANY = (36, 5, 1, 20), (13, 1, 30, 17)
PAIRS = len(MANY[0]) * len(MANY[1])


def gradients_of_few(matches: int, engine: str, device: str, dtype: torch.dtype) -> list[torch.Tensor]:
    """Float64 on the CPU, where a loss sends back to so many of all pairs."""
    problem = Problem(PairScorer.cmsei(), *MANY, 20)
    generator = torch.Generator().manual_seed(matches)
    upstream = torch.zeros(PAIRS, dtype=torch.float64)
    chosen = torch.randperm(PAIRS, generator=generator)[:matches]
    upstream[chosen] = torch.randn(matches, generator=generator, dtype=torch.float64)
    v, w, v_offsets, w_offsets = problem.tensors()
    scalars = torch.tensor(problem.scorer.scalars(), dtype=dtype)
    leaves = [v.to(device, dtype).requires_grad_(), w.to(device, dtype).requires_grad_(), scalars.requires_grad_()]
    options = {"scorer": problem.scorer, "scalars": leaves[2], "engine": engine}
    out = pair_score(leaves[0], leaves[1], v_offsets, w_offsets, **options)
    return [g.double().cpu() for g in torch.autograd.grad(out, leaves, upstream.view_as(out).to(out))]


@functools.cache
def defined_of_few(matches: int) -> list[torch.Tensor]:
    """The same by the reference, all in float64."""
    return gradients_of_few(matches, "reference", "cpu", torch.float64)


@pytest.mark.parametrize("matches", [1, 4, 9, PAIRS * 5 // 12], ids=lambda n: f"{n}-of-{PAIRS}-pairs")
def test_few_pairs_with_a_gradient(matches: int, backend: Backend) -> None:
    """The hardest-negative loss leaves most of the matrix without one; few pairs and many must give the same."""
    for dtype, limit in ((torch.float64, 1e-11), (torch.float32, 1e-4)):
        actual = gradients_of_few(matches, backend.engine, backend.device, dtype)
        for g, expected in zip(actual, defined_of_few(matches), strict=True):
            assert error(g, expected) <= limit * magnitude(expected)
