"""The pair score of the engine cuda: its Python, its kernels' text run on the host, and its launch geometry."""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from cancelling import (
    check_dots_of_refined_queries,
    check_gradients_across_levels_without_a_mean,
    check_gradients_of_zero_vectors,
    check_gradients_without_a_mean,
    check_opposite_vectors,
    check_regions_without_a_mean,
)
from cuda_on_host import ALONE, BLOCKS, COMPILER, OUTSIDE, WARPS, Module, PairCall, PairItems, engine_on_host
from cuda_on_host import library as host_library
from problems import (
    Problem,
    attention_options,
    computed,
    error,
    every_direction,
    literal,
    magnitude,
    name,
    truth,
    whole_scores,
)

from cmsei_fast.engines import cuda, cuda_pair
from cmsei_fast.ops import pair_score
from cmsei_fast.scorer import NORMS, PairScorer

pytestmark = [
    pytest.mark.usefixtures("poisoned"),
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: the kernels cannot be run on the host"),
]

PROBLEMS = every_direction() + whole_scores() + attention_options()
SOME = [p for i, p in enumerate(every_direction()) if i % 30 == 7] + whole_scores()[:2] + attention_options()[::5]


@pytest.fixture(scope="module")
def library() -> Path:
    return host_library("pair")


def check(problem: Problem, dtype: torch.dtype) -> None:
    """Scores and every gradient against the reference in float64."""
    expected, actual = truth(problem), computed(problem, "cuda", dtype)
    exact = dtype == torch.float64
    assert error(actual.scores, expected.scores) <= (1e-12 if exact else 1e-5) * magnitude(expected.scores)
    for key, value in expected.gradients().items():
        limit = 1e-10 if exact else 1e-4
        if not exact:
            limit += 2 * error(literal(problem, dtype).gradients()[key], value) / magnitude(value)
        assert error(actual.gradients()[key], value) <= limit * magnitude(value), key


@pytest.mark.parametrize("problem", PROBLEMS, ids=name)
def test_a_team_of_one_matches_the_reference(library: Path, problem: Problem) -> None:
    module = Module(library, fibers=False)
    with engine_on_host(module):
        check(problem, torch.float64)
    assert module.teams == {ALONE}


@pytest.mark.parametrize("problem", SOME, ids=name)
def test_a_team_of_one_in_float32(library: Path, problem: Problem) -> None:
    with engine_on_host(Module(library, fibers=False)):
        check(problem, torch.float32)


@pytest.mark.parametrize("problem", SOME, ids=name)
def test_warps_match_the_reference(library: Path, problem: Problem) -> None:
    module = Module(library, fibers=True, shared_limit=4 * 1024 * 1024)
    with engine_on_host(module):
        check(problem, torch.float64)
    assert module.teams == {WARPS}


SMALL = Problem(PairScorer.cmsei(), (7, 2), (3, 5), 8)


@pytest.mark.parametrize(("limit", "teams"), [(6 * 1024, {BLOCKS}), (512, {OUTSIDE})])
def test_blocks_match_the_reference(library: Path, limit: int, teams: set[int]) -> None:
    module = Module(library, fibers=True, shared_limit=limit)
    with engine_on_host(module):
        actual = computed(SMALL, "cuda", torch.float64)
        for key, value in truth(SMALL).gradients().items():
            assert error(actual.gradients()[key], value) <= 1e-10 * magnitude(value), key
    assert teams <= module.teams


@pytest.mark.parametrize(
    "scorer", [PairScorer.cmsei(), PairScorer.naaf(0.2), PairScorer.chan()], ids=["cmsei", "naaf", "chan"]
)
def test_the_order_of_threads_changes_nothing(library: Path, scorer: PairScorer) -> None:
    problem = Problem(scorer, SMALL.regions, SMALL.words, SMALL.width)
    answers = []
    for reverse in (False, True):
        with engine_on_host(Module(library, fibers=True, reverse=reverse)):
            answers.append(computed(problem, "cuda", torch.float32))
    assert torch.equal(answers[0].scores, answers[1].scores)
    for key, value in answers[0].gradients().items():
        assert torch.equal(value, answers[1].gradients()[key]), key


@pytest.mark.parametrize(("regions", "words"), [(577, 3), (36, 120), (1, 200)])
def test_large_items(library: Path, regions: int, words: int) -> None:
    with engine_on_host(Module(library, fibers=False)):
        check(Problem(PairScorer.cmsei(), (regions, 2), (words, 1), 5), torch.float64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision(library: Path, dtype: torch.dtype) -> None:
    problem = Problem(PairScorer.cmsei(), (36, 5), (13, 3), 65)
    expected = truth(problem).scores
    with engine_on_host(Module(library, fibers=False)):
        off = error(computed(problem, "cuda", dtype).scores, expected)
    assert off <= 2 * error(literal(problem, dtype).scores, expected) + 1e-3 * magnitude(expected)


@pytest.mark.parametrize("aggregate", ["lse", "guided"])
@pytest.mark.parametrize("norm", NORMS)
def test_vectors_that_cancel_out(library: Path, norm: str, aggregate: str) -> None:
    for fibers in (False, True):
        with engine_on_host(Module(library, fibers=fibers)):
            check_opposite_vectors(norm, aggregate, "cuda", torch.float32)


@pytest.mark.parametrize("length", [1, 12])
def test_images_whose_regions_have_no_mean(library: Path, length: int) -> None:
    with engine_on_host(Module(library, fibers=False)):
        check_regions_without_a_mean(length, "cuda", torch.float32)


@pytest.mark.parametrize("steps", [2, 3, 8])
def test_gradients_of_images_whose_regions_have_no_mean(library: Path, steps: int) -> None:
    with engine_on_host(Module(library, fibers=False)):
        check_gradients_without_a_mean(steps, "cuda")


@pytest.mark.parametrize("steps", [3, 4, 8])
def test_gradients_of_zero_vectors(library: Path, steps: int) -> None:
    with engine_on_host(Module(library, fibers=False)):
        check_gradients_of_zero_vectors(steps, "cuda")


@pytest.mark.parametrize("fibers", [False, True])
@pytest.mark.parametrize("norm", ["softmax", "clipped_l2norm"])
def test_dots_of_refined_queries(library: Path, norm: str, fibers: bool) -> None:
    with engine_on_host(Module(library, fibers=fibers)):
        check_dots_of_refined_queries("softmax", norm, "cuda")
        check_dots_of_refined_queries("hard", norm, "cuda")


@pytest.mark.parametrize("side", ["regions", "words", "both"])
def test_gradients_across_levels_without_a_mean(library: Path, side: str) -> None:
    with engine_on_host(Module(library, fibers=False)):
        check_gradients_across_levels_without_a_mean(side, "cuda")


def test_pairs_without_a_gradient_are_left_out(library: Path) -> None:
    v, w, v_offsets, w_offsets = SMALL.tensors()
    with engine_on_host(Module(library, fibers=False)):
        scorer = PairScorer.cmsei()
        inputs = v, w, v_offsets, w_offsets, torch.tensor(scorer.scalars(), dtype=v.dtype), scorer.config(), "float64"
        whole = torch.zeros(2, 2, dtype=v.dtype)
        whole[1, 0] = 0.5
        one = cuda.pair_score_backward(whole, *inputs)
        own = v[7:], w[:3], torch.tensor([0, 2]), torch.tensor([0, 3])
        alone = cuda.pair_score_backward(whole[1:, :1], *own, *inputs[4:])
    assert error(one[0], torch.cat([torch.zeros_like(v[:7]), alone[0]])) <= 1e-14
    assert error(one[1], torch.cat([alone[1], torch.zeros_like(w[3:])])) <= 1e-14
    assert error(one[2], alone[2]) <= 1e-14


def test_nan_is_not_hidden(library: Path) -> None:
    v, w, v_offsets, w_offsets = SMALL.tensors()
    v[0, 0] = torch.nan
    with engine_on_host(Module(library, fibers=False)):
        for scorer in (
            *(PairScorer.cmsei(), PairScorer.scan_t2i(), PairScorer.scan_i2t("max")),
            *(PairScorer.maxsim(), PairScorer.chan(), PairScorer.naaf(0.2), PairScorer.bfan("prob")),
        ):
            out = pair_score(v, w, v_offsets, w_offsets, scorer=scorer, engine="cuda")
            assert out[0].isnan().all()
            assert out[1].isfinite().all()


def test_what_the_kernels_do_not_take_goes_to_eager(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = Module(library, fibers=False)
    monkeypatch.setattr(cuda_pair, "MAX_NUMBERS", 20)
    with engine_on_host(module):
        actual = computed(SMALL, "cuda", torch.float64)
        assert "more than 20 inner products" in cuda.limits()
    assert not module.teams
    assert error(actual.scores, truth(SMALL).scores) <= 1e-12
    lengths = torch.tensor([0, 7]), torch.tensor([0, 3])
    assert "21 inner products" in str(cuda_pair.refusal(*lengths, PairScorer.cmsei().config()))
    monkeypatch.undo()
    assert cuda_pair.refusal(*lengths, PairScorer.cmsei().config()) is None
    assert "do not know" in str(cuda_pair.refusal(*lengths, [*PairScorer.cmsei().config(), 1]))


def test_every_pair_belongs_to_one_team(library: Path) -> None:
    module = Module(library, fibers=True)
    config = tuple(PairScorer.cmsei().config()[: cuda_pair.OPTIONS])
    for regions, words, backward in itertools.product((1, 36, 37, 577), (1, 13, 77), (0, 1)):
        for images, captions, splits in itertools.product((1, 3, 7), (1, 5, 64), (1, 2, 5, 8, 100)):
            call = PairCall(
                config=config,
                images=PairItems(count=images, longest=regions),
                captions=PairItems(count=captions, longest=words),
                splits=splits,
            )
            counts = np.zeros((images, captions), np.int32)
            for limit in (99 * 1024, 227 * 1024):
                counts[:] = 0
                place = counts.ctypes.data_as(ctypes.c_void_p)
                assert module.library.pair_cover(ctypes.byref(call), backward, ctypes.c_int64(limit), place) > 0
                assert (counts == 1).all()
