"""The pair score's values: every engine against the reference in float64, odd shapes, edges."""

from __future__ import annotations

import itertools

import pytest
import torch
from cancelling import (
    check_dots_of_refined_queries,
    check_gradients_across_levels_without_a_mean,
    check_gradients_of_zero_vectors,
    check_gradients_without_a_mean,
    check_opposite_vectors,
    check_regions_without_a_mean,
    equal_length_problem,
    without_a_mean,
)
from conftest import BACKENDS, Backend
from problems import (
    E4M3_ROUNDING,
    NANS,
    TF32_ROUNDING,
    Problem,
    computed,
    error,
    every_direction,
    literal,
    magnitude,
    name,
    nan,
    offsets,
    thinned,
    truth,
    whole_scores,
)

from cmsei_fast.engines import triton
from cmsei_fast.engines.terms import rounded_rows
from cmsei_fast.ops import pair_score
from cmsei_fast.scorer import NORMS, Attention, PairScorer

pytestmark = pytest.mark.usefixtures("poisoned")

PROBLEMS = every_direction() + whole_scores()
LOW_PRECISION = thinned(3)
# Images and captions of problems whose pairs are alike: the interpreter takes seconds for each pair of some.
ALIKE = 2 if triton.interpreted() else 6
FLOOR = {torch.bfloat16: 1e-3, torch.float16: 2e-4}


@pytest.mark.parametrize("problem", PROBLEMS, ids=name)
def test_float32_against_reference(problem: Problem, backend: Backend) -> None:
    expected = truth(problem).scores
    actual = computed(problem, backend.engine, torch.float32, device=backend.device).scores
    assert error(actual, expected) <= 1e-5 * magnitude(expected)


@pytest.mark.parametrize("problem", PROBLEMS, ids=name)
def test_float64_against_reference(problem: Problem, backend: Backend) -> None:
    expected = truth(problem).scores
    actual = computed(problem, backend.engine, torch.float64, device=backend.device).scores
    assert error(actual, expected) <= 1e-12 * magnitude(expected)


@pytest.mark.parametrize("dtype", FLOOR, ids=str)
@pytest.mark.parametrize("problem", LOW_PRECISION, ids=name)
def test_low_precision_against_pytorch(problem: Problem, dtype: torch.dtype, backend: Backend) -> None:
    expected = truth(problem).scores
    off = error(computed(problem, backend.engine, dtype, device=backend.device).scores, expected)
    assert off <= 5e-3 * magnitude(expected)
    assert off <= 2 * error(literal(problem, dtype).scores, expected) + FLOOR[dtype] * magnitude(expected)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16", "float64", "float8", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_precision_rounds_features_and_sums_wide(dtype: torch.dtype, precision: str, backend: Backend) -> None:
    v, w, v_offsets, w_offsets = Problem(PairScorer.cmsei(), (5, 7), (3, 1, 4), 20).tensors()
    v, w = v.to(dtype), w.to(dtype)
    rounded = [rounded_rows(x, precision).double() for x in (v, w)]
    expected = pair_score(*rounded, v_offsets, w_offsets, scorer=PairScorer.cmsei(), engine="reference")
    device = [x.to(backend.device) for x in (v, w)]
    actual = pair_score(
        *device, v_offsets, w_offsets, scorer=PairScorer.cmsei(), engine=backend.engine, precision=precision
    )
    assert actual.dtype == (torch.float64 if precision == "float64" else torch.float32)
    rounds = backend.engine == "triton" and precision in ("bfloat16", "float16", "float8", "int8")
    limit = TF32_ROUNDING * magnitude(expected) if rounds else 1e-5
    if precision == "float8" and str(backend) == "cuda-cuda":
        limit = E4M3_ROUNDING * magnitude(expected)
    assert error(actual.double().cpu(), expected) <= (1e-12 if precision == "float64" else limit)


def test_many_chunks_agree_with_single_pairs(backend: Backend) -> None:
    """Tiles, padding and the order of lengths leave a pair's score alone."""
    lengths = [1 + (i * 7) % 19 for i in range(60)], [1 + (i * 5) % 11 for i in range(50)]
    scorer = PairScorer.cmsei()
    v, w, v_offsets, w_offsets = Problem(scorer, tuple(lengths[0]), tuple(lengths[1]), 8).tensors()
    v, w = (x.to(backend.device, torch.float32) for x in (v, w))
    whole = pair_score(v, w, v_offsets, w_offsets, scorer=scorer, engine=backend.engine)
    for i, j in itertools.product((0, 13, 59), (0, 21, 49)):
        one_v, one_w = v[v_offsets[i] : v_offsets[i + 1]], w[w_offsets[j] : w_offsets[j + 1]]
        alone = pair_score(
            one_v, one_w, offsets((len(one_v),)), offsets((len(one_w),)), scorer=scorer, engine=backend.engine
        )
        torch.testing.assert_close(whole[i, j], alone[0, 0], atol=2e-6, rtol=0)


def test_tiles_smaller_than_the_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    from cmsei_fast.engines import eager

    problem = Problem(PairScorer.cmsei(), (5, 1, 7, 7, 2), (3, 1, 13, 2, 2, 3), 8)
    for tile in (1, 50, 400):
        monkeypatch.setattr(eager, "_FORWARD_TILE", {"cpu": tile, "other": tile})
        monkeypatch.setattr(eager, "_BACKWARD_TILE", {"cpu": tile, "other": tile})
        actual, expected = computed(problem, "eager", torch.float64), truth(problem)
        assert error(actual.scores, expected.scores) <= 1e-12
        for key, value in expected.gradients().items():
            assert error(actual.gradients()[key], value) <= 1e-10 * magnitude(value)


@pytest.mark.parametrize("norm", NORMS)
def test_zero_vectors(norm: str, backend: Backend) -> None:
    """A zero region, a zero word, an image and a sentence of nothing else: the 1e-8 of the definition, never NaN."""
    attention = Attention(norm=norm, aggregate="guided", steps=2)
    scorer = PairScorer(attention, attention, object_sentence=1.0, word_image=1.0, alignment=1.0)
    v, w, v_offsets, w_offsets = Problem(scorer, (4, 2, 3), (3, 1, 5), 8).tensors()
    v[1], v[4:6], w[2], w[3] = 0, 0, 0, 0
    leaves = [x.clone().requires_grad_() for x in (v, w)]
    expected = pair_score(*leaves, v_offsets, w_offsets, scorer=scorer, engine="reference")
    expected_gradients = torch.autograd.grad(expected.sum(), leaves)
    for dtype, limit in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        leaves = [x.to(backend.device, dtype).requires_grad_() for x in (v, w)]
        actual = pair_score(*leaves, v_offsets, w_offsets, scorer=scorer, engine=backend.engine)
        assert error(actual.detach().double().cpu(), expected.detach()) <= limit
        # At a zero vector the definition's slopes are up to 1e16: what counts is relative, vector by vector.
        for g, e in zip(torch.autograd.grad(actual.sum(), leaves), expected_gradients, strict=True):
            off = error(g.double().cpu() / e.norm(dim=1, keepdim=True), e / e.norm(dim=1, keepdim=True))
            assert off <= (1e-3 if dtype == torch.float32 else 1e-7)


@pytest.mark.parametrize("aggregate", ["lse", "guided"])
@pytest.mark.parametrize("norm", NORMS)
def test_vectors_that_cancel_out(norm: str, aggregate: str, engine: str) -> None:
    check_opposite_vectors(norm, aggregate, engine, torch.float32)


@pytest.mark.parametrize("length", [1, 12])
def test_images_whose_regions_have_no_mean(length: int, engine: str) -> None:
    check_regions_without_a_mean(length, engine, torch.float32, ALIKE)


@pytest.mark.parametrize("scorer", [PairScorer(alignment=1.0), PairScorer(object_sentence=1.0, word_image=1.0)])
def test_regions_that_cancel_out_exactly_have_no_mean(scorer: PairScorer) -> None:
    """Sums of their squares are those of vectors of any length: float32's own rounding is none."""
    v, w, v_offsets, w_offsets = equal_length_problem(6, 12)
    few = v.view(6, 36, 64)[:, :12].float()
    v, w = torch.cat([few, few, -2 * few], 1).flatten(0, 1), w.float()
    expected = pair_score(v.double(), w.double(), v_offsets, w_offsets, scorer=scorer, engine="reference")
    for found in (v[torch.arange(216).view(6, 3, 12).mT.flatten()], v):
        scores = pair_score(found, w, v_offsets, w_offsets, scorer=scorer, engine="eager")
        assert error(scores.double(), expected) <= 1e-5


@pytest.mark.parametrize("engine", ["triton"] if triton.interpreted() else ["eager", "native"])
def test_eight_steps_over_regions_without_a_mean(engine: str) -> None:
    """|U|² of a word that attends to all of them alike is rounding, below 0 as often as above."""
    v, w, v_offsets, w_offsets = equal_length_problem(3, 1)
    v, w = without_a_mean(v, 3).float(), w.float()
    scorer = PairScorer(Attention(norm="softmax", steps=8))
    scores = pair_score(v, w, v_offsets, w_offsets, scorer=scorer, engine=engine)
    assert scores.abs().max() <= 1 + 1e-5  # NaN is above it


@pytest.mark.parametrize("engine", ["triton"] if triton.interpreted() else ["eager", "native"])
@pytest.mark.parametrize("steps", [2, 3, 8])
def test_gradients_of_regions_without_a_mean(steps: int, engine: str) -> None:
    check_gradients_without_a_mean(steps, engine, ALIKE)


@pytest.mark.parametrize("engine", ["triton"] if triton.interpreted() else ["eager", "native"])
@pytest.mark.parametrize("steps", [3] if triton.interpreted() else [3, 4, 8])
def test_gradients_of_zero_vectors(steps: int, engine: str) -> None:
    check_gradients_of_zero_vectors(steps, engine)


DOTS = [("softmax", "clipped_l2norm"), ("softmax", "softmax"), ("focal_equal", "none"), ("hard", "l1norm")]


@pytest.mark.parametrize("engine", ["triton"] if triton.interpreted() else ["eager", "native"])
@pytest.mark.parametrize(("attend", "norm"), DOTS[:1] if triton.interpreted() else DOTS)
def test_dots_of_refined_queries(attend: str, norm: str, engine: str) -> None:
    check_dots_of_refined_queries(attend, norm, engine)


@pytest.mark.parametrize("engine", ["eager", "native"])
@pytest.mark.parametrize("side", ["regions", "words", "both"])
def test_gradients_across_levels_without_a_mean(side: str, engine: str) -> None:
    check_gradients_across_levels_without_a_mean(side, engine)


@pytest.mark.parametrize("backend", [b for b in BACKENDS if b.engine in ("eager", "native")], ids=str, indirect=True)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_a_mean_that_is_less_than_the_rounding_of_inner_products(precision: str, backend: Backend) -> None:
    """Rows of whole numbers cancel out but for a short one; of their inner products float32 rounds those of 2²⁵."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(32, 64, (2, 6, 4096), generator=generator)
    sign = torch.randint(2, (6, 4096), generator=generator) * 2 - 1
    short = torch.randint(-63, 64, (6, 4096), generator=generator)
    v = torch.stack([a * sign, b * sign, -(a + b) * sign, short * 2.0**-12], 1).flatten(0, 1)
    w = (short + torch.randint(-63, 64, (6, 4096), generator=generator)).float()
    sides = offsets((4,) * 6), offsets((1,) * 6)
    scorer = PairScorer(word_image=1.0, alignment=1.0)
    expected = pair_score(v.double(), w.double(), *sides, scorer=scorer, engine="reference")
    given = v.to(backend.device), w.to(backend.device), *sides
    actual = pair_score(*given, scorer=scorer, engine=backend.engine, precision=precision)
    assert expected.diag().min() > 1
    assert error(actual.double().cpu(), expected) <= 1e-2


@pytest.mark.parametrize("native", [b for b in BACKENDS if b.engine == "native"], ids=str)
def test_gradients_of_a_mean_that_rounding_hides(native: Backend) -> None:
    """The sum of these words in float32 is 0. A mean of length 0 has slopes of 1 / ε², this one of less than 1 / ε."""
    v = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    w = torch.tensor([[2.0**-26], [1.0], [-1.0]]) * torch.tensor([1.0, 0.5])
    sides = [x.requires_grad_() for x in (v, w)]
    with native.forced():
        for scorer in (PairScorer(object_sentence=1.0), PairScorer.cmsei()):
            scores = pair_score(*sides, offsets((2,)), offsets((3,)), scorer=scorer, engine="native")
            for gradient in torch.autograd.grad(scores.sum(), sides):
                assert gradient.abs().max() <= 1e8  # NaN is above it


def test_ties_share_the_gradient_of_max(backend: Backend) -> None:
    """Equal relevances by construction (exact arithmetic): each of four equal queries takes a quarter."""
    v = torch.tensor([[1.0, 0.0, 0.0]]).expand(4, 3)
    w = torch.tensor([[1.0, 1.0, 0.0]]).expand(4, 3)
    attention = Attention(aggregate="max", temperature=4.0)
    scorer = PairScorer(t2i=attention, i2t=attention)
    found = []
    for engine, device in (("reference", "cpu"), (backend.engine, backend.device)):
        leaves = [x.to(device, torch.float64).clone().requires_grad_() for x in (v, w)]
        out = pair_score(*leaves, offsets((4,)), offsets((4,)), scorer=scorer, engine=engine)
        found.append([g.cpu() for g in torch.autograd.grad(out.sum(), leaves)])
    for expected, actual in zip(*found, strict=True):
        assert error(actual, expected) <= 1e-12
        assert error(actual, actual[:1].expand(4, 3)) <= 1e-15
        assert actual.abs().max() > 0.01


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (7, 1)], ids=str)
def test_one_image_one_sentence(shape: tuple[int, int], backend: Backend) -> None:
    problem = Problem(PairScorer.cmsei(), shape[:1], shape[1:], 5)
    actual = computed(problem, backend.engine, torch.float32, device=backend.device)
    assert actual.scores.shape == (1, 1)
    assert error(actual.scores, truth(problem).scores) <= 1e-5


@pytest.mark.parametrize(("images", "sentences"), [(0, 2), (3, 0), (0, 0)])
def test_empty_sets(images: int, sentences: int, backend: Backend) -> None:
    problem = Problem(PairScorer.cmsei(), (2,) * images, (3,) * sentences, 4)
    v, w, v_offsets, w_offsets = problem.tensors()
    leaves = [x.to(backend.device).requires_grad_() for x in (v, w)]
    out = pair_score(*leaves, v_offsets, w_offsets, scorer=problem.scorer, engine=backend.engine)
    assert out.shape == (images, sentences)
    for x, g in zip(leaves, torch.autograd.grad(out.sum(), leaves), strict=True):
        assert torch.equal(g, torch.zeros_like(x))


@pytest.mark.parametrize("made_by", NANS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("problem", every_direction()[::9] + whole_scores(), ids=name)
def test_an_image_of_nan_leaves_the_others_alone(
    problem: Problem, dtype: torch.dtype, made_by: str, backend: Backend
) -> None:
    v, w, *given = Problem(problem.scorer, (3, 5, 2), (2, 4), 6).tensors()
    v, w = (x.to(backend.device, dtype) for x in (v, w))
    clean = pair_score(v, w, *given, scorer=problem.scorer, engine=backend.engine)
    assert clean.isfinite().all()
    v[4] = nan(made_by, dtype)
    dirty = pair_score(v, w, *given, scorer=problem.scorer, engine=backend.engine)
    assert dirty[1].isnan().all()
    torch.testing.assert_close(dirty[[0, 2]], clean[[0, 2]], atol=1e-6, rtol=0)


HARD = Attention(attend="hard", relevance="dot", aggregate="sum")
GUIDED = Attention(norm="none", aggregate="guided", temperature=30.0)
# Scorers with a mean, in which infinities of both signs may meet, or a choice, which passes over the smallest.
CHOOSING = {
    **{name: PairScorer(**{name: 1.0}) for name in ("alignment", "object_sentence", "word_image")},
    **{f"hard-{name}": PairScorer(**{name: HARD}) for name in ("t2i", "i2t")},
    "guided": PairScorer(GUIDED, GUIDED),
    **{name: getattr(PairScorer, name)() for name in ("chan", "cmsei", "scan_t2i", "bfan")},
}


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf])
@pytest.mark.parametrize("side", ["image", "caption"])
@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16", "int8"])
@pytest.mark.parametrize("scorer", CHOOSING.values(), ids=CHOOSING)
def test_an_infinite_feature_is_never_a_score(
    scorer: PairScorer, precision: str, side: str, bad: float, backend: Backend
) -> None:
    for seed in range(2):
        v, w, *given = Problem(scorer, (3, 5, 2), (2, 4, 1), 6, seed).tensors()
        x, first, count = (v, 3, 5) if side == "image" else (w, 2, 4)
        x[first : first + count, 2] *= torch.tensor([1.0, -1.0]).repeat(3)[:count]
        v, w = (x.to(backend.device, torch.float32) for x in (v, w))
        options = {"scorer": scorer, "engine": backend.engine, "precision": precision}
        clean = pair_score(v, w, *given, **options)
        (v if side == "image" else w)[first + 1, 2] = bad
        found = pair_score(v, w, *given, **options)
        wrong = torch.zeros_like(found, dtype=torch.bool)
        wrong[(1,) if side == "image" else (slice(None), 1)] = True
        assert not found[wrong].isfinite().any()
        torch.testing.assert_close(found[~wrong], clean[~wrong], atol=1e-6, rtol=0)


@pytest.mark.parametrize("native", [b for b in BACKENDS if b.engine == "native"], ids=str)
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.usefixtures("threads")
def test_same_bits_for_any_number_of_threads(count: int, native: Backend) -> None:
    problem = Problem(PairScorer.cmsei(), (7, 36, 5, 1, 37, 36), (3, 13, 1, 17, 2), 65)
    with native.forced():
        torch.set_num_threads(1)
        one = computed(problem, "native", torch.float32)
        torch.set_num_threads(count)
        many = computed(problem, "native", torch.float32)
    for field in ("scores", "d_regions", "d_words", "d_scalars"):
        assert torch.equal(getattr(one, field), getattr(many, field)), field


def test_same_bits_every_time(backend: Backend) -> None:
    # The interpreter runs programs one after another: there only memory that nobody wrote could differ.
    lengths, times = (((7, 1), (3, 17)), 1) if triton.interpreted() else (((7, 36, 5, 1), (3, 13, 1, 17)), 3)
    problem = Problem(PairScorer.cmsei(), *lengths, 20)
    first = computed(problem, backend.engine, torch.float32, device=backend.device)
    for _ in range(times):
        again = computed(problem, backend.engine, torch.float32, device=backend.device)
        for field in ("scores", "d_regions", "d_words", "d_scalars"):
            assert torch.equal(getattr(first, field), getattr(again, field)), field


def test_an_overflow_is_never_a_score(backend: Backend) -> None:
    """Where a product overflows, every engine's result shows it, under the maximum too."""
    v, w = torch.full((2, 4), 1e18), torch.full((3, 4), 1.0)
    v[1] /= 2
    w[1] *= 1e21
    scorer = PairScorer(t2i=Attention(aggregate="max"))
    v, w = v.to(backend.device), w.to(backend.device)
    out = pair_score(v, w, offsets((2,)), offsets((3,)), scorer=scorer, engine=backend.engine)
    assert not torch.isfinite(out).all()


@pytest.mark.parametrize(("norm", "length"), [("clipped_l2norm", 1e4), ("clipped", 1e6), ("none", 1e6)])
def test_long_vectors(norm: str, length: float, backend: Backend) -> None:
    """As long as docs/scores.md says, with a caption of one word, which gives all regions the largest weight."""
    scorer = PairScorer(Attention(temperature=30.0, norm=norm), Attention(temperature=30.0, norm=norm), 1.0, 1.0, 1.0)
    v, w, *others = Problem(scorer, (36, 5), (1, 13), 20).tensors()
    v, w = (length * torch.nn.functional.normalize(x, dim=1).float() for x in (v, w))
    expected = pair_score(v.double(), w.double(), *others, scorer=scorer, engine="reference")
    actual = pair_score(v.to(backend.device), w.to(backend.device), *others, scorer=scorer, engine=backend.engine)
    assert error(actual.double().cpu(), expected) <= 1e-5


@pytest.mark.parametrize("temperature", [12.0, -12.0, 30.0])
def test_long_vectors_across_levels(temperature: float, backend: Backend) -> None:
    """Weights that are divided by their sum at the end must leave room for the squares of what they weigh."""
    scorer = PairScorer(object_sentence=1.0, word_image=1.0, alignment=1.0, guide_temperature=abs(temperature))
    v, w, *others = Problem(scorer, (36, 5), (1, 13), 20).tensors()
    v, w = (1e9 * (torch.nn.functional.normalize(x, dim=1) + 1).float() for x in (v, w))  # each near all means
    scalars = torch.tensor(scorer.scalars())
    scalars[5] = temperature
    options = {"scorer": scorer, "scalars": scalars}
    expected = pair_score(v.double(), w.double(), *others, engine="reference", **options)
    actual = pair_score(v.to(backend.device), w.to(backend.device), *others, engine=backend.engine, **options)
    assert error(actual.double().cpu(), expected) <= 1e-5


def test_a_negative_temperature_in_the_scalars(backend: Backend) -> None:
    """Legal for the operator, whose scalars are learned numbers: large and negative must not overflow."""
    problem = Problem(PairScorer.scan_t2i("mean"), (7, 5), (1, 4), 20)
    v, w, v_offsets, w_offsets = problem.tensors()
    scalars = torch.tensor(problem.scorer.scalars(), dtype=torch.float64)
    scalars[6] = -60.0
    options = {"scorer": problem.scorer, "scalars": scalars}
    expected = pair_score(v, w, v_offsets, w_offsets, engine="reference", **options)
    actual = pair_score(
        v.float().to(backend.device),
        w.float().to(backend.device),
        v_offsets,
        w_offsets,
        engine=backend.engine,
        **options,
    )
    assert error(actual.double().cpu(), expected) <= 1e-5


def test_the_largest_items(backend: Backend) -> None:
    """577 regions (a ViT at 384 pixels) and 512 words, beside one of each."""
    problem = Problem(PairScorer.cmsei(), (577, 1), (512, 1), 16)
    expected = truth(problem).scores
    assert error(computed(problem, backend.engine, torch.float32, device=backend.device).scores, expected) <= 1e-5


@pytest.mark.parametrize("temperature", [1e-9, 1e4, 1e10])
def test_extreme_temperatures_give_scores(engine: str, temperature: float) -> None:
    """A difference to the largest logit is off by a rounding of that, which at 1e10 is hundreds."""
    v, w, v_offsets, w_offsets = Problem(PairScorer.cmsei(), (5, 36), (3, 13), 20).tensors()
    for norm in ("clipped_l2norm", "softmax", "none"):
        both = (Attention(temperature=temperature, norm=norm, steps=2) for _ in range(2))
        scores = pair_score(v.float(), w.float(), v_offsets, w_offsets, scorer=PairScorer(*both), engine=engine)
        assert torch.isfinite(scores).all()
        assert scores.abs().max() <= 2 + 1e-5


@pytest.mark.parametrize("norm", ["none", "clipped", "softmax"])
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_inner_products_without_bounds(direction: str, norm: str, backend: Backend) -> None:
    """The largest logit stands at 0 however large it was, and lanes that hold no query are beyond nothing."""
    attention = Attention(temperature=9.0, norm=norm, aggregate="guided", steps=2)
    scorer = PairScorer(**{direction: attention})
    generator = torch.Generator().manual_seed(0)
    v_offsets, w_offsets = offsets((2, 5)), offsets((3, 1))
    for scale in (1e2, 1e6) if norm == "softmax" else (1e6, 1e10):
        v = (scale * torch.randn(7, 20, generator=generator)).to(backend.device)
        w = torch.randn(4, 20, generator=generator).to(backend.device)
        w[1:3] = -w[:1]  # some contexts are far from every query
        scalars = torch.tensor(scorer.scalars())
        for x in (v, -v):
            pair = x, w, v_offsets, w_offsets
            expected = pair_score(*(t.double() for t in pair[:2]), *pair[2:], scorer=scorer, engine="reference")
            leaves = [t.clone().requires_grad_() for t in pair[:2]] + [scalars.requires_grad_()]
            actual = pair_score(*leaves[:2], *pair[2:], scorer=scorer, scalars=leaves[2], engine=backend.engine)
            assert error(actual.detach().double(), expected) <= 1e-5 * magnitude(expected)
            assert all(g.isfinite().all() for g in torch.autograd.grad(actual.sum(), leaves))
