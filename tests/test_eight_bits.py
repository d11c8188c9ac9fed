"""Precisions of 8 bits: e4m3 or whole numbers times a power of two of their row, the same in every engine."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from conftest import BACKENDS, Backend
from problems import E4M3_ROUNDING, NANS, TF32_ROUNDING, Problem, error, magnitude, nan
from torch import Tensor

from cmsei_fast import PairScorer, evaluate, score_matrix
from cmsei_fast.compat import scores as compat
from cmsei_fast.engines import eight_bits, native
from cmsei_fast.ops import pair_score

# All that there are but -128, and the largest.
NUMBERS = {
    "float8": torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).double(),
    "int8": torch.cat([torch.arange(128), -torch.arange(1, 128)]).double(),
}
LARGEST = {"float8": 448, "int8": 127}
FORMATS = pytest.mark.parametrize("precision", NUMBERS)
PROBLEM = Problem(PairScorer.cmsei(), (5, 36, 1, 7), (3, 1, 13, 4), 40)


def features(seed: int, rows: int = 200, width: int = 33) -> Tensor:
    """Rows of lengths over many powers of two."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator) * torch.logspace(-30, 30, rows)[:, None]


@FORMATS
def test_the_nearest_number_is_taken_at_the_least_scale(precision: str) -> None:
    x = features(0).double()
    found = eight_bits.quantise(x.float(), precision)
    scales = found.scales.double()
    assert torch.equal(scales.log2().round().exp2(), scales)
    largest = x.abs().amax(1)
    assert (largest <= LARGEST[precision] * scales).all()
    assert (largest > LARGEST[precision] / 2 * scales).all()
    table = NUMBERS[precision][NUMBERS[precision].isfinite()]
    away = (x / scales[:, None])[..., None].sub(table).abs()  # (rows, D, numbers)
    own = (x / scales[:, None] - found.numbers.double()).abs()
    assert torch.equal(own, away.amin(-1))
    assert torch.equal(eight_bits.dequantised(found).double(), found.numbers.double() * scales[:, None])


@FORMATS
def test_ties_go_to_even_and_what_is_there_already_stays(precision: str) -> None:
    table = NUMBERS[precision][NUMBERS[precision] >= 0]
    between = (table[:-1] + table[1:]) / 2
    rows = torch.cat([table.amax()[None], between])[None].float()
    found = eight_bits.quantise(rows, precision).numbers[0, 1:]
    assert (found.view(torch.uint8) % 2 == 0).all()
    rounded = eight_bits.rounded(features(1), precision)
    assert torch.equal(eight_bits.rounded(rounded, precision), rounded)
    whole = NUMBERS[precision][NUMBERS[precision].isfinite()].float()[None]
    assert torch.equal(eight_bits.rounded(whole, precision).float(), whole)


@FORMATS
def test_how_far_a_number_moves(precision: str) -> None:
    """Relative to itself down to the row's own floor, or by half of the scale."""
    x = features(2).double()
    scales = eight_bits.quantise(x.float(), precision).scales.double()[:, None]
    off = (eight_bits.rounded(x.float(), precision).double() - x).abs()
    assert (off <= (torch.maximum(x.abs() * 2**-4, scales * 2**-10) if precision == "float8" else scales / 2)).all()
    assert off.max() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@FORMATS
def test_rows_at_the_ends(precision: str, dtype: torch.dtype) -> None:
    tiny, huge = torch.finfo(dtype).smallest_normal, torch.finfo(dtype).max / 2
    tiny, huge = max(tiny, 2.0**-126), min(huge, 1e38)
    x = torch.tensor([[0, 0], [tiny, -tiny], [huge, -huge], [torch.nan, 1], [torch.inf, 1]], dtype=dtype)
    found = eight_bits.rounded(x, precision).double()
    assert torch.equal(found[0], torch.zeros(2).double())
    assert (found[1] - x[1].double()).abs().max() <= 2.0**-126
    assert ((found[2] - x[2].double()).abs() <= 2**-4 * huge).all()
    assert found[3:].isnan().all()
    assert eight_bits.quantise(x[:0], precision).numbers.shape == (0, 2)


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@FORMATS
def test_gradients_are_those_at_the_rounded_features(precision: str, dtype: torch.dtype, backend: Backend) -> None:
    """In the features' dtype, though engines compute with bfloat16."""
    v, w, v_offsets, w_offsets = PROBLEM.tensors()
    v, w = (x.to(backend.device, dtype) for x in (v, w))
    scalars = torch.tensor(PROBLEM.scorer.scalars(), dtype=torch.float64)
    own = [x.clone().requires_grad_() for x in (v, w)]
    rounded = [eight_bits.rounded(x, precision).double().cpu().requires_grad_() for x in (v, w)]
    pair = {"scorer": PROBLEM.scorer}
    with backend.forced():
        actual = pair_score(*own, v_offsets, w_offsets, engine=backend.engine, precision=precision, **pair)
        gradients = torch.autograd.grad(actual.sum(), own)
    expected = pair_score(*rounded, v_offsets, w_offsets, scalars=scalars, engine="reference", **pair)
    assert actual.dtype == torch.float32
    limits = {"triton": TF32_ROUNDING, "cuda": E4M3_ROUNDING if precision == "float8" else 1e-5}
    limit = limits.get(backend.engine, 1e-5)
    assert error(actual.detach().double().cpu(), expected.detach()) <= limit * magnitude(expected.detach())
    slack = {torch.float32: 2e-5, torch.float64: 2e-5, torch.float16: 2e-3}[dtype]
    if backend.device == "cuda" or backend.engine in ("triton", "cuda"):  # the inner products' is rounded to bfloat16
        slack = 8e-3
    for found, exact in zip(gradients, torch.autograd.grad(expected.sum(), rounded), strict=True):
        assert found.dtype == dtype
        assert error(found.double().cpu(), exact) <= slack * magnitude(exact)


@FORMATS
def test_a_score_is_within_what_rounding_can_do(precision: str) -> None:
    """MaxSim, a sum of largest inner products: none moves further than its terms' roundings together."""
    v, w, v_offsets, w_offsets = Problem(PairScorer.maxsim(), (36, 20), (13, 7), 96).tensors()
    scores = [
        pair_score(v, w, v_offsets, w_offsets, scorer=PairScorer.maxsim(), engine="reference", precision=own)
        for own in ("float64", precision)
    ]
    # |x' − x| <= 2⁻⁴ |x| or 2⁻¹⁰ of the scale, of which the row's largest number is more than 224; half of the scale,
    # of which it is more than 63.5.
    relative, floor = {"float8": (2**-4, 2**-10 / 224), "int8": (0, 1 / 127)}[precision]
    off = [x.abs() * relative + x.abs().amax(1, keepdim=True) * floor for x in (v, w)]
    limit = w.abs() @ off[0].T + off[1] @ v.abs().T + off[1] @ off[0].T  # (words, regions)
    for i, j in itertools.product(range(2), range(2)):
        own = limit[w_offsets[j] : w_offsets[j + 1], v_offsets[i] : v_offsets[i + 1]]
        difference = abs(float(scores[1][i, j]) - float(scores[0][i, j]))
        assert 0 < difference <= float(own.amax(1).sum())


@FORMATS
def test_scores_of_unit_features_stay_near_the_exact_ones(precision: str) -> None:
    v, w, v_offsets, w_offsets = Problem(PairScorer.cmsei(), (36,) * 6, (13,) * 6, 256).tensors()
    v, w = (torch.nn.functional.normalize(x, dim=1) for x in (v, w))
    for scorer, limit in ((PairScorer.scan_t2i(), 0.02), (PairScorer.cmsei(), 0.1)):
        exact, found = (
            pair_score(v, w, v_offsets, w_offsets, scorer=scorer, engine="eager", precision=own).double()
            for own in ("float64", precision)
        )
        assert 1e-5 < error(found, exact) < limit


@FORMATS
def test_blocks_tiles_and_engines_give_the_operators_scores(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    from cmsei_fast import engines, tiling

    rng = np.random.default_rng(0)
    images, captions = (rng.standard_normal((n, k, 24)).astype(np.float32) for n, k in ((9, 6), (11, 8)))
    offsets = [torch.arange(n + 1) * k for n, k in ((9, 6), (11, 8))]
    sides = [torch.from_numpy(x.reshape(-1, 24)) for x in (images, captions)]
    wanted = pair_score(*sides, *offsets, scorer=PairScorer.cmsei(), engine="reference", precision=precision).numpy()
    monkeypatch.setattr(tiling, "IMAGE_BLOCK_BYTES", 2 * 6 * 24 * 4)
    monkeypatch.setattr(tiling, "TILE_WORK", dict.fromkeys(tiling.TILE_WORK, 100_000))
    for engine in ("reference", "eager", "native"):
        if engines.unavailable(engine) is None:
            got = score_matrix(images, captions, engine=engine, precision=precision)
            assert got.dtype == np.float32
            np.testing.assert_allclose(got, wanted, atol=5e-6)


@FORMATS
def test_values_beyond_its_range_are_named(precision: str) -> None:
    images, captions = np.ones((2, 3, 8)), np.ones((2, 4, 8), dtype=np.float32)
    images[1, 2, 3] = 1e300
    with pytest.raises(
        ValueError, match=f"images: expected features within the range of {precision}, got larger ones in im"
    ):
        score_matrix(images, captions, precision=precision)


@FORMATS
def test_compat_rounds_once(precision: str) -> None:
    rng = np.random.default_rng(1)
    images, captions = (rng.standard_normal((3, 5, 16)).astype(np.float32) for _ in range(2))
    lengths = [5, 5, 5]
    wanted = score_matrix(images, captions, lengths, scorer=PairScorer.scan_t2i(), precision=precision)
    got = compat.shard_xattn(
        torch.from_numpy(images),
        torch.from_numpy(captions),
        lengths,
        PairScorer.scan_t2i(),
        precision=precision,
        device="cpu",
    )
    np.testing.assert_array_equal(got, wanted)


@FORMATS
def test_ranks_of_separable_features_do_not_move(precision: str) -> None:
    generator = torch.Generator().manual_seed(0)
    concepts = torch.randn(40, 64, generator=generator)
    images = concepts[:, None] + 0.7 * torch.randn(40, 6, 64, generator=generator)
    captions = concepts.repeat_interleave(5, 0)[:, None] + 0.7 * torch.randn(200, 8, 64, generator=generator)
    sides = [torch.nn.functional.normalize(x, dim=-1) for x in (images, captions)]
    exact, found = (evaluate(*sides, scorer=PairScorer.scan_t2i(), precision=own) for own in ("float32", precision))
    assert exact.rsum > 300
    assert abs(found.rsum - exact.rsum) <= 2.0


def test_whole_numbers_move_scores_less_than_e4m3_where_rows_have_no_few_large_numbers() -> None:
    """And more where one number of a row is far above the others."""
    v, w, *offsets = Problem(PairScorer.scan_t2i(), (36,) * 6, (13,) * 6, 256).tensors()
    for largest, fewer in ((1.0, "int8"), (64.0, "float8")):
        v[:, 0] *= largest
        exact, *found = (
            pair_score(v, w, *offsets, scorer=PairScorer.scan_t2i(), engine="reference", precision=own).double()
            for own in ("float64", "int8", "float8")
        )
        whole, floats = (float((x - exact).square().mean().sqrt()) for x in found)
        assert (whole < floats / 2) if fewer == "int8" else (whole > floats)


INT8_ISAS = [
    isa for isa in (native.isas() if native.unavailable() is None else ()) if native._module().multiplies_int8(isa)
]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("width", [1, 2, 3, 4, 15, 66, 130, 1025, 2500])
@pytest.mark.parametrize("isa", INT8_ISAS or [pytest.param("", marks=pytest.mark.skip(reason="needs VNNI"))])
def test_native_rounds_as_it_packs_whatever_the_rows_are_held_in(isa: str, width: int, dtype: torch.dtype) -> None:
    """To the numbers of the definition: zeros, ties, rows of any size, one apart from the next in memory."""
    v, w, v_offsets, w_offsets = Problem(PairScorer.maxsim(), (36, 1, 14, 29), (3, 17, 40, 1), width).tensors()
    scale = max(torch.finfo(dtype).tiny, 2.0**-50) * 2.0 ** torch.arange(-3.0, 20)
    v, w = (torch.cat([x, x], 1).to(dtype)[:, :width] for x in (v, w))
    v[: len(scale)] *= scale[:, None].to(dtype)
    v[30] = torch.arange(width) % 4 - 1.5
    v[31] = 0
    w[0] = 2**14 + torch.arange(width) % 5
    with native.use_isa(isa):
        for scorer in (PairScorer.maxsim(), PairScorer.scan_t2i("mean"), PairScorer.cmsei()):
            given = {"scorer": scorer, "engine": "native"}
            found = pair_score(v, w, v_offsets, w_offsets, precision="int8", **given)
            rounded = (eight_bits.rounded(x, "int8").double() for x in (v, w))
            expected = pair_score(*rounded, v_offsets, w_offsets, precision="float64", **given)
            assert found.dtype == torch.float32
            assert expected.isfinite().all()
            assert error(found.double(), expected) <= 1e-5 * magnitude(expected)


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, *NANS])
@pytest.mark.parametrize("isa", INT8_ISAS or [pytest.param("", marks=pytest.mark.skip(reason="needs VNNI"))])
def test_native_keeps_what_is_no_number_to_its_own_pairs(isa: str, bad: float | str) -> None:
    v, w, v_offsets, w_offsets = Problem(PairScorer.maxsim(), (5, 36, 7), (3, 13, 4), 70).tensors()
    v[5 + 17, 69] = nan(bad, v.dtype) if isinstance(bad, str) else bad
    with native.use_isa(isa):
        scores = pair_score(v, w, v_offsets, w_offsets, scorer=PairScorer.cmsei(), engine="native", precision="int8")
    assert scores[1].isnan().all()
    assert scores[::2].isfinite().all()
