"""Precision ``"float8"``: e4m3 numbers times a power of two of their row, the same in every engine."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from conftest import BACKENDS, Backend
from problems import E4M3_ROUNDING, TF32_ROUNDING, Problem, error, magnitude
from torch import Tensor

from cmsei_fast import PairScorer, evaluate, score_matrix
from cmsei_fast.compat import scores as compat
from cmsei_fast.engines import float8
from cmsei_fast.ops import pair_score

NUMBERS = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
PROBLEM = Problem(PairScorer.cmsei(), (5, 36, 1, 7), (3, 1, 13, 4), 40)


def features(seed: int, rows: int = 200, width: int = 33) -> Tensor:
    """Rows of lengths over many powers of two."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator) * torch.logspace(-30, 30, rows)[:, None]


def test_the_nearest_number_is_taken_at_the_least_scale() -> None:
    x = features(0).double()
    found = float8.quantise(x.float())
    scales = found.scales.double()
    assert torch.equal(scales.log2().round().exp2(), scales)
    largest = x.abs().amax(1)
    assert (largest <= 448 * scales).all()
    assert (largest > 224 * scales).all()
    table = NUMBERS[NUMBERS.isfinite()]
    away = (x / scales[:, None])[..., None].sub(table).abs()  # (rows, D, numbers)
    own = (x / scales[:, None] - found.numbers.double()).abs()
    assert torch.equal(own, away.amin(-1))
    assert torch.equal(float8.dequantised(found).double(), found.numbers.double() * scales[:, None])


def test_ties_go_to_even_and_what_is_there_already_stays() -> None:
    table = NUMBERS[NUMBERS >= 0]
    between = (table[:-1] + table[1:]) / 2
    found = float8.quantise(torch.cat([torch.tensor([448.0]), between.float()])[None]).numbers[0, 1:]
    assert (found.view(torch.uint8) % 2 == 0).all()
    rounded = float8.rounded(features(1))
    assert torch.equal(float8.rounded(rounded), rounded)
    whole = NUMBERS[NUMBERS.isfinite()].float()[None]
    assert torch.equal(float8.rounded(whole).float(), whole)


def test_rounding_is_relative_to_each_number_down_to_the_rows_own_floor() -> None:
    x = features(2).double()
    scales = float8.quantise(x.float()).scales.double()[:, None]
    off = (float8.rounded(x.float()).double() - x).abs()
    assert (off <= torch.maximum(x.abs() * 2**-4, scales * 2**-10)).all()
    assert off.max() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_rows_at_the_ends(dtype: torch.dtype) -> None:
    tiny, huge = torch.finfo(dtype).smallest_normal, torch.finfo(dtype).max / 2
    tiny, huge = max(tiny, 2.0**-126), min(huge, 1e38)
    x = torch.tensor([[0, 0], [tiny, -tiny], [huge, -huge], [torch.nan, 1], [torch.inf, 1]], dtype=dtype)
    found = float8.rounded(x).double()
    assert torch.equal(found[0], torch.zeros(2).double())
    assert (found[1] - x[1].double()).abs().max() <= 2.0**-126
    assert ((found[2] - x[2].double()).abs() <= 2**-4 * huge).all()
    assert found[3:].isnan().all()
    assert float8.quantise(x[:0]).numbers.shape == (0, 2)


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_gradients_are_those_at_the_rounded_features(dtype: torch.dtype, backend: Backend) -> None:
    """In the features' dtype, though engines compute with bfloat16."""
    v, w, v_offsets, w_offsets = PROBLEM.tensors()
    v, w = (x.to(backend.device, dtype) for x in (v, w))
    scalars = torch.tensor(PROBLEM.scorer.scalars(), dtype=torch.float64)
    own = [x.clone().requires_grad_() for x in (v, w)]
    rounded = [float8.rounded(x).double().cpu().requires_grad_() for x in (v, w)]
    pair = {"scorer": PROBLEM.scorer}
    with backend.forced():
        actual = pair_score(*own, v_offsets, w_offsets, engine=backend.engine, precision="float8", **pair)
        gradients = torch.autograd.grad(actual.sum(), own)
    expected = pair_score(*rounded, v_offsets, w_offsets, scalars=scalars, engine="reference", **pair)
    assert actual.dtype == torch.float32
    limit = {"triton": TF32_ROUNDING, "cuda": E4M3_ROUNDING}.get(backend.engine, 1e-5)
    assert error(actual.detach().double().cpu(), expected.detach()) <= limit * magnitude(expected.detach())
    slack = {torch.float32: 2e-5, torch.float64: 2e-5, torch.float16: 2e-3}[dtype]
    if backend.engine in ("triton", "cuda"):  # a gradient of inner products is rounded to bfloat16 there
        slack = 8e-3
    for found, exact in zip(gradients, torch.autograd.grad(expected.sum(), rounded), strict=True):
        assert found.dtype == dtype
        assert error(found.double().cpu(), exact) <= slack * magnitude(exact)


def test_a_score_is_within_what_rounding_can_do() -> None:
    """MaxSim, a sum of largest inner products: none moves further than its terms' roundings together."""
    v, w, v_offsets, w_offsets = Problem(PairScorer.maxsim(), (36, 20), (13, 7), 96).tensors()
    scores = [
        pair_score(v, w, v_offsets, w_offsets, scorer=PairScorer.maxsim(), engine="reference", precision=precision)
        for precision in ("float64", "float8")
    ]
    # |x' − x| <= 2⁻⁴ |x| or 2⁻¹⁰ of the scale, of which the row's largest number is more than 224.
    off = [x.abs() * 2**-4 + x.abs().amax(1, keepdim=True) * 2**-10 / 224 for x in (v, w)]
    limit = w.abs() @ off[0].T + off[1] @ v.abs().T + off[1] @ off[0].T  # (words, regions)
    for i, j in itertools.product(range(2), range(2)):
        own = limit[w_offsets[j] : w_offsets[j + 1], v_offsets[i] : v_offsets[i + 1]]
        difference = abs(float(scores[1][i, j]) - float(scores[0][i, j]))
        assert 0 < difference <= float(own.amax(1).sum())


def test_scores_of_unit_features_stay_near_the_exact_ones() -> None:
    v, w, v_offsets, w_offsets = Problem(PairScorer.cmsei(), (36,) * 6, (13,) * 6, 256).tensors()
    v, w = (torch.nn.functional.normalize(x, dim=1) for x in (v, w))
    for scorer, limit in ((PairScorer.scan_t2i(), 0.02), (PairScorer.cmsei(), 0.1)):
        exact, found = (
            pair_score(v, w, v_offsets, w_offsets, scorer=scorer, engine="eager", precision=precision).double()
            for precision in ("float64", "float8")
        )
        assert 1e-5 < error(found, exact) < limit


def test_blocks_tiles_and_engines_give_the_operators_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    from cmsei_fast import engines, tiling

    rng = np.random.default_rng(0)
    images, captions = (rng.standard_normal((n, k, 24)).astype(np.float32) for n, k in ((9, 6), (11, 8)))
    offsets = [torch.arange(n + 1) * k for n, k in ((9, 6), (11, 8))]
    sides = [torch.from_numpy(x.reshape(-1, 24)) for x in (images, captions)]
    wanted = pair_score(*sides, *offsets, scorer=PairScorer.cmsei(), engine="reference", precision="float8").numpy()
    monkeypatch.setattr(tiling, "IMAGE_BLOCK_BYTES", 2 * 6 * 24 * 4)
    monkeypatch.setattr(tiling, "TILE_WORK", dict.fromkeys(tiling.TILE_WORK, 100_000))
    for engine in ("reference", "eager", "native"):
        if engines.unavailable(engine) is None:
            got = score_matrix(images, captions, engine=engine, precision="float8")
            assert got.dtype == np.float32
            np.testing.assert_allclose(got, wanted, atol=5e-6)


def test_values_beyond_its_range_are_named() -> None:
    images, captions = np.ones((2, 3, 8)), np.ones((2, 4, 8), dtype=np.float32)
    images[1, 2, 3] = 1e300
    with pytest.raises(ValueError, match="images: expected features within the range of float8, got larger ones in im"):
        score_matrix(images, captions, precision="float8")


def test_compat_rounds_once() -> None:
    rng = np.random.default_rng(1)
    images, captions = (rng.standard_normal((3, 5, 16)).astype(np.float32) for _ in range(2))
    lengths = [5, 5, 5]
    wanted = score_matrix(images, captions, lengths, scorer=PairScorer.scan_t2i(), precision="float8")
    got = compat.shard_xattn(
        torch.from_numpy(images),
        torch.from_numpy(captions),
        lengths,
        PairScorer.scan_t2i(),
        precision="float8",
        device="cpu",
    )
    np.testing.assert_array_equal(got, wanted)


def test_ranks_of_separable_features_do_not_move() -> None:
    generator = torch.Generator().manual_seed(0)
    concepts = torch.randn(40, 64, generator=generator)
    images = concepts[:, None] + 0.7 * torch.randn(40, 6, 64, generator=generator)
    captions = concepts.repeat_interleave(5, 0)[:, None] + 0.7 * torch.randn(200, 8, 64, generator=generator)
    sides = [torch.nn.functional.normalize(x, dim=-1) for x in (images, captions)]
    exact, found = (
        evaluate(*sides, scorer=PairScorer.scan_t2i(), precision=precision) for precision in ("float32", "float8")
    )
    assert exact.rsum > 300
    assert abs(found.rsum - exact.rsum) <= 2.0
