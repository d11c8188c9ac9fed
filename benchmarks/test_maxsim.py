"""MaxSim beside the package ``maxsim-cpu``, where that is installed: captions ask, images' regions answer."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.captions import Features, features
from benchmarks.paired import agree, alternate
from benchmarks.report import Report
from benchmarks.settings import SIZES
from benchmarks.test_score import native_scores
from cmsei_fast import PairScorer

MAXSIM = PairScorer.maxsim()


def test_maxsim_over_maxsim_cpu(benchmark: Any, report: Report) -> None:
    try:
        library = importlib.import_module("maxsim_cpu")
    except ImportError:
        report.unmeasured("maxsim_cpu", "maxsim-cpu is not installed")
        pytest.skip("maxsim-cpu is not installed")

    def other(given: Features) -> Tensor:
        images, queries = given.images.numpy(), [x.numpy() for x in given.words.split(given.lengths.tolist())]
        return torch.from_numpy(np.stack([library.maxsim_scores(query, images) for query in queries], 1))  # (N, M)

    small = features(5, 7, 64)
    agree("maxsim_cpu", native_scores(small.words, small, MAXSIM), other(small), 1e-5)
    given = features(SIZES.images, SIZES.captions, SIZES.width)
    paired = alternate(benchmark, lambda: native_scores(given.words, given, MAXSIM), lambda: other(given))
    report.add("maxsim_cpu", paired.speedups, paired, pairs=given.pairs, threads=torch.get_num_threads())
    report.judge("maxsim_cpu")


def test_maxsim_over_a_bare_product(benchmark: Any, report: Report) -> None:
    given = features(SIZES.images, SIZES.captions, SIZES.width)
    product = torch.empty(len(given.words), len(given.regions))
    paired = alternate(
        benchmark,
        lambda: native_scores(given.words, given, MAXSIM),
        lambda: torch.mm(given.words, given.regions.T, out=product),
    )
    report.add("maxsim_mm", paired.speedups, paired, pairs=given.pairs)
    report.judge("maxsim_mm")
