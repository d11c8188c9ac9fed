"""A training step, forward and backward: native against the field's code under autograd, in time and in memory."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.captions import features
from benchmarks.memory import in_process
from benchmarks.paired import agree, alternate
from benchmarks.report import Report
from benchmarks.settings import SIZES
from benchmarks.training import field_step, step


def check(name: str, form: str) -> None:
    """Both sides' gradients on a small batch."""
    small = features(4, 4, 64)
    gradients = zip(("images", "words"), step(small, form), field_step(small, form), strict=True)
    for side, actual, expected in gradients:
        agree(f"{name}, gradient of {side}", actual, expected, 1e-4)


def over_field(benchmark: Any, report: Report, key: str, form: str, size: int) -> None:
    check(key, form)
    batch = features(size, size, SIZES.width)
    paired = alternate(benchmark, lambda: step(batch, form), lambda: field_step(batch, form))
    report.add(key, paired.speedups, paired, pairs=batch.pairs, width=SIZES.width)
    report.judge(key)


def test_scan_step(benchmark: Any, report: Report) -> None:
    over_field(benchmark, report, "training_time", "scan", SIZES.batch)


def test_scan_step_on_the_hardest_negatives(benchmark: Any, report: Report) -> None:
    over_field(benchmark, report, "training_hardest", "scan_hardest", SIZES.batch)


def test_maxsim_step(benchmark: Any, report: Report) -> None:
    over_field(benchmark, report, "training_maxsim", "maxsim", SIZES.batch)


def test_cmsei_step(benchmark: Any, report: Report) -> None:
    over_field(benchmark, report, "training_cmsei", "cmsei", SIZES.cmsei_batch)


def test_memory_of_a_scan_step(benchmark: Any, report: Report) -> None:
    """Peak resident memory beyond the features, of one step in a process of its own."""
    check("training_memory", "scan")
    threads = str(torch.get_num_threads())
    other = in_process("benchmarks.training", "field", threads)["bytes"]
    ours = benchmark.pedantic(in_process, ("benchmarks.training", "native", threads), rounds=1)["bytes"]
    assert other > 0
    report.add("training_memory", [ours / other], bytes=ours, other_bytes=other, pairs=SIZES.batch**2)
    report.judge("training_memory")
