"""Accuracy of each precision: the largest error of a score, and the time per pair."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from benchmarks.captions import features
from benchmarks.paired import timed
from benchmarks.report import Report
from benchmarks.settings import SIZES
from benchmarks.test_pair_score import SCAN
from cmsei_fast import score_matrix

PRECISIONS = ("float32", "bfloat16", "float16", "int8")


def test_errors_of_the_precisions(benchmark: Any, report: Report) -> None:
    """Against the definition in float64 on the same features; rounds of the precisions alternate."""
    small = features(8, 16, SIZES.width)
    exact = score_matrix(small.images.double(), small.words.double(), small.lengths, scorer=SCAN, engine="reference")
    data = features(SIZES.images, SIZES.slow_captions, SIZES.width)
    seconds: dict[str, list[float]] = {name: [] for name in PRECISIONS}

    def scores(part: Any, name: str) -> torch.Tensor:
        return score_matrix(part.images, part.words, part.lengths, scorer=SCAN, engine="native", precision=name)

    def rounds() -> None:
        for name in PRECISIONS:
            seconds[name].append(timed(lambda name=name: scores(data, name)))

    rounds()
    for times in seconds.values():
        times.clear()
    benchmark.pedantic(rounds, rounds=SIZES.least, iterations=1)
    found = {}
    for name in PRECISIONS:
        error = (scores(small, name).double() - exact).abs().max().item()
        found[name] = {"error": error, "microseconds_per_pair": 1e6 * statistics.median(seconds[name]) / data.pairs}
    report.add("accuracy", [found["float32"]["error"]], precisions=found, pairs=data.pairs, width=SIZES.width)
    report.judge("accuracy")
