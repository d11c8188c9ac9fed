"""Two processes that share the tiles of a run, against one of them alone."""

from __future__ import annotations

import os
from typing import Any

from benchmarks import field
from benchmarks.distributed import PROCESSES
from benchmarks.memory import in_process
from benchmarks.paired import Paired
from benchmarks.report import Report
from benchmarks.settings import QUICK
from benchmarks.test_pair_score import SCAN, check


def test_two_processes_over_one(benchmark: Any, report: Report) -> None:
    if len(os.sched_getaffinity(0)) < PROCESSES:
        report.unmeasured("distributed", f"fewer than {PROCESSES} cores")
        return
    check("distributed", SCAN, field.scan_t2i, "fp32")
    found = benchmark.pedantic(in_process, ("benchmarks.distributed", "1" if QUICK else "3"), rounds=1)
    paired = Paired(tuple(found["together"]), tuple(found["alone"]))
    processor = [a / b for a, b in zip(found["processor_alone"], found["processor_together"], strict=True)]
    report.add("distributed", paired.speedups, paired, processor=processor, pairs=found["pairs"], width=found["width"])
    report.judge("distributed")
