"""MaxSim: native against the package ``maxsim-cpu``, where that is installed, and against the bare product."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch

from benchmarks.captions import features
from benchmarks.maxsim import WIDTH
from benchmarks.memory import in_process
from benchmarks.paired import Paired, alternate
from benchmarks.report import Report
from benchmarks.settings import SIZES
from benchmarks.test_pair_score import native_scores
from cmsei_fast import PairScorer


def test_maxsim_over_maxsim_cpu(benchmark: Any, report: Report) -> None:
    if importlib.util.find_spec("maxsim_cpu") is None:
        report.unmeasured("maxsim_cpu", "maxsim-cpu is not installed")
        pytest.skip("maxsim-cpu is not installed")
    found = benchmark.pedantic(in_process, ("benchmarks.maxsim", str(torch.get_num_threads())), rounds=1)
    paired = Paired(tuple(found["ours"]), tuple(found["other"]))
    report.add("maxsim_cpu", paired.speedups, paired, pairs=found["pairs"], width=WIDTH)
    report.judge("maxsim_cpu")


def test_maxsim_over_a_bare_product(benchmark: Any, report: Report) -> None:
    data = features(SIZES.images, SIZES.captions, SIZES.width)
    product = torch.empty(len(data.words), len(data.regions))
    paired = alternate(
        benchmark,
        lambda: native_scores(data.words, data, PairScorer.maxsim()),
        lambda: torch.mm(data.words, data.regions.T, out=product),
    )
    report.add("maxsim_mm", paired.speedups, paired, pairs=data.pairs, width=SIZES.width)
    report.judge("maxsim_mm")
