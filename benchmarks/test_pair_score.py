"""Scoring: native against the field's code, the bare matrix product, the processor's peak, and torch.compile."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import field
from benchmarks.captions import Features, features
from benchmarks.paired import agree, alternate, timed
from benchmarks.report import Report
from benchmarks.settings import FULL, QUICK, SIZES
from cmsei_fast import PairScorer, _native, score_matrix
from cmsei_fast.engines import affine, eager, native

SCAN = PairScorer.scan_t2i()
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# An absolute error of a score; bf16 as the field's own code has it, whose sums over words are rounded to 8 bits.
TOLERANCES = {"fp32": 1e-5, "bf16": 5e-3}


def native_scores(captions: Tensor, data: Features, scorer: PairScorer, precision: str | None = None) -> Tensor:
    """(N, M) by the public entry, checks included; captions padded or packed."""
    return score_matrix(data.images, captions, data.lengths, scorer=scorer, engine="native", precision=precision)


def check(name: str, scorer: PairScorer, form: Any, dtype: str) -> None:
    """Native against the field's form, summed in float32, on a small problem."""
    small = features(5, 7, 64).to(DTYPES[dtype])
    actual = native_scores(small.words, small, scorer)
    wide = small.to(torch.float32)
    with torch.no_grad():
        expected = form(wide.images, wide.padded(), small.lengths.tolist())
    agree(name, actual, expected, TOLERANCES[dtype])


def over_field(
    benchmark: Any, report: Report, key: str, scorer: PairScorer, form: Any, dtype: str, captions: int
) -> list[float]:
    """Alternates native and a form of the field on the same padded captions; the other's seconds a pair, by round."""
    check(key, scorer, form, dtype)
    data = features(SIZES.images, captions, SIZES.width).to(DTYPES[dtype])
    padded, lengths = data.padded(), data.lengths.tolist()

    def other() -> Tensor:
        with torch.no_grad():
            return form(data.images, padded, lengths)

    paired = alternate(benchmark, lambda: native_scores(padded, data, scorer), other)
    report.add(key, paired.speedups, paired, pairs=data.pairs, width=SIZES.width)
    return [seconds / data.pairs for seconds in paired.other]


def test_scan_t2i_over_the_field_fp32(benchmark: Any, report: Report) -> None:
    over_field(benchmark, report, "scan_field_fp32", SCAN, field.scan_t2i, "fp32", SIZES.captions)
    report.judge("scan_field_fp32")


def test_scan_t2i_over_the_field_bf16(benchmark: Any, report: Report) -> None:
    seconds = over_field(benchmark, report, "scan_field_bf16", SCAN, field.scan_t2i, "bf16", SIZES.slow_captions)
    images, captions, _ = FULL.large[1]
    report.add("large_5k_field", [x * images * captions / 3600 for x in seconds], pairs=images * captions)
    report.judge("scan_field_bf16", "large_5k_field")


def test_scan_i2t_over_the_field_fp32(benchmark: Any, report: Report) -> None:
    scorer = PairScorer.scan_i2t()
    over_field(benchmark, report, "scan_i2t_field_fp32", scorer, field.scan_i2t, "fp32", SIZES.slow_captions)
    report.judge("scan_i2t_field_fp32")


def test_cmsei_over_the_literal_form_fp32(benchmark: Any, report: Report) -> None:
    over_field(benchmark, report, "cmsei_field_fp32", PairScorer.cmsei(), field.cmsei, "fp32", SIZES.cmsei_captions)
    report.judge("cmsei_field_fp32")


@pytest.mark.parametrize("dtype", DTYPES)
def test_scan_t2i_over_a_bare_product(benchmark: Any, report: Report, dtype: str) -> None:
    check("scan_mm", SCAN, field.scan_t2i, dtype)
    data = features(SIZES.images, SIZES.captions, SIZES.width).to(DTYPES[dtype])
    regions, words = data.regions, data.words
    product = torch.empty(len(words), len(regions), dtype=DTYPES[dtype])  # memory that a user would have to hold
    paired = alternate(
        benchmark,
        lambda: native_scores(words, data, SCAN),
        lambda: torch.mm(words, regions.T, out=product),
    )
    flop = 2 * len(words) * len(regions) * SIZES.width
    rates = [flop / seconds / 1e9 for seconds in paired.ours]
    library = [flop / seconds / 1e9 for seconds in paired.other]
    details = {"gflops": float(np.median(rates)), "other_gflops": float(np.median(library)), "pairs": data.pairs}
    if dtype == "fp32":
        # The best of a peak taken before every round: one taken while something else ran would flatter the share.
        best, again = 0.0, []
        for _ in range(len(rates)):
            best = max(best, float(_native.fma_peak(torch.get_num_threads(), native.current_isa())))
            again.append(flop / timed(lambda: native_scores(words, data, SCAN)) / 1e9)
        report.add("scan_peak_fp32", [rate / best for rate in again], peak_gflops=best)
    report.add(f"scan_mm_{dtype}", paired.speedups, paired, **details)
    report.judge(f"scan_mm_{dtype}")


def test_scan_t2i_over_onednn(benchmark: Any, report: Report) -> None:
    """The product by the library that torch.compile uses, with AVX-512 where that of torch.mm has none."""
    if not affine.has_onednn():
        report.unmeasured("scan_onednn_fp32", "torch is built without oneDNN")
        pytest.skip("torch is built without oneDNN")
    check("scan_onednn", SCAN, field.scan_t2i, "fp32")
    data = features(SIZES.images, SIZES.captions, SIZES.width)
    blocks = data.words.split(1024)  # whose product fits memory that is used again, which is fastest

    def other() -> None:
        with torch.no_grad():
            for words in blocks:
                affine.product(words, data.regions)

    paired = alternate(benchmark, lambda: native_scores(data.words, data, SCAN), other)
    report.add("scan_onednn_fp32", paired.speedups, paired, pairs=data.pairs)
    report.judge("scan_onednn_fp32")


def check_int8(name: str, scorer: PairScorer) -> None:
    """Scores of whole numbers of 8 bits agree with the definition's."""
    small = features(5, 7, 64)
    expected = score_matrix(
        small.images, small.words, small.lengths, scorer=scorer, engine="reference", precision="int8"
    )
    agree(name, native_scores(small.words, small, scorer, "int8"), expected, TOLERANCES["fp32"])


@pytest.mark.parametrize("name", ["scan", "cmsei"])
def test_int8_over_bf16(benchmark: Any, report: Report, name: str) -> None:
    """Whole numbers of 8 bits of the same features in bfloat16, rounded as they are packed."""
    scorer = {"scan": SCAN, "cmsei": PairScorer.cmsei()}[name]
    check_int8(f"{name}_int8", scorer)
    data = features(SIZES.images, SIZES.captions, SIZES.width).to(torch.bfloat16)
    paired = alternate(
        benchmark,
        lambda: native_scores(data.words, data, scorer, "int8"),
        lambda: native_scores(data.words, data, scorer),
    )
    report.add(f"{name}_int8", paired.speedups, paired, pairs=data.pairs)
    report.judge(f"{name}_int8")


def test_int8_over_a_bare_product(benchmark: Any, report: Report) -> None:
    data = features(SIZES.images, SIZES.captions, SIZES.width).to(torch.bfloat16)
    regions, words = data.regions, data.words
    product = torch.empty(len(words), len(regions), dtype=torch.bfloat16)
    paired = alternate(
        benchmark,
        lambda: native_scores(words, data, SCAN, "int8"),
        lambda: torch.mm(words, regions.T, out=product),
    )
    report.add("scan_mm_int8", paired.speedups, paired, pairs=data.pairs)
    report.judge("scan_mm_int8")


def test_cmsei_over_scan(benchmark: Any, report: Report) -> None:
    check("scan", SCAN, field.scan_t2i, "fp32")
    check("cmsei", PairScorer.cmsei(), field.cmsei, "fp32")
    data = features(SIZES.images, SIZES.captions, SIZES.width)
    paired = alternate(
        benchmark,
        lambda: native_scores(data.words, data, PairScorer.cmsei()),
        lambda: native_scores(data.words, data, SCAN),
    )
    report.add("cmsei_over_scan", paired.costs, paired, pairs=data.pairs)
    report.judge("cmsei_over_scan")


def test_scan_t2i_over_compiled_eager(benchmark: Any, report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    """The eager engine with its tile function, where all but the matrix product is, compiled."""
    if QUICK:
        pytest.skip("torch.compile takes longer than a quick run may")
    monkeypatch.setattr(eager, "score_tile", torch.compile(eager.score_tile, dynamic=True))
    data = features(SIZES.images, SIZES.captions, SIZES.width)

    def compiled() -> Tensor:
        return score_matrix(data.images, data.words, data.lengths, scorer=SCAN, engine="eager")

    try:
        expected = compiled()
    except Exception as error:  # the compiler's own errors have no common type
        report.unmeasured("scan_compiled", f"torch.compile failed here ({type(error).__name__})")
        pytest.skip(f"torch.compile failed here: {error}")
    agree("scan_compiled", native_scores(data.words, data, SCAN), expected, TOLERANCES["fp32"])
    paired = alternate(benchmark, lambda: native_scores(data.words, data, SCAN), compiled)
    report.add("scan_compiled", paired.speedups, paired, pairs=data.pairs)
    report.judge("scan_compiled")
