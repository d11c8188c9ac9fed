"""Time per pair and peak memory, from few pairs to many."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks import field
from benchmarks.memory import in_process
from benchmarks.report import Report
from benchmarks.settings import SIZES
from benchmarks.test_pair_score import SCAN, check

RESOLUTION = 2**20  # bytes; below it the allocator's leftovers decide, and a small first size may need nothing at all


def test_time_and_memory_do_not_depend_on_the_number_of_pairs(benchmark: Any, report: Report) -> None:
    check("scale", SCAN, field.scan_t2i, "fp32")
    threads = str(torch.get_num_threads())
    found = benchmark.pedantic(in_process, ("benchmarks.scale", threads), rounds=1)
    times, peaks = found["seconds"], found["peaks"]
    same = {"pairs": found["pairs"], "width": SIZES.width}
    growth = max(peaks[-1], RESOLUTION) / max(peaks[0], RESOLUTION)
    report.add("scale_memory", [growth], bytes=peaks, **same)
    report.add("scale_time", [max(times) / min(times)], microseconds_per_pair=[1e6 * t for t in times], **same)
    report.judge("scale_memory", "scale_time")
