"""The sizes of whole data sets in bfloat16 and int8: time beside the bare product of the same data, and peak memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import field
from benchmarks.memory import in_process
from benchmarks.paired import Paired
from benchmarks.report import Report
from benchmarks.settings import SIZES
from benchmarks.test_pair_score import SCAN, check, check_int8

# Row -> its place in SIZES.large and the precision.
CASES = {
    "large_1k": (0, "bfloat16"),
    "large_5k": (1, "bfloat16"),
    "large_5k_int8": (1, "int8"),
    "large_10k": (2, "bfloat16"),
}


@pytest.mark.parametrize("key", CASES)
def test_scoring_a_whole_data_set(benchmark: Any, report: Report, key: str) -> None:
    place, precision = CASES[key]
    check_int8(key, SCAN) if precision == "int8" else check(key, SCAN, field.scan_t2i, "bf16")
    images, captions, slabs = SIZES.large[place]
    arguments = [str(x) for x in (images, captions, slabs, torch.get_num_threads(), precision)]
    found = benchmark.pedantic(in_process, ("benchmarks.large", *arguments), rounds=1)
    assert found["finite"]
    paired = Paired(tuple(found["ours"]), tuple(found["other"]))
    details = {"pairs": found["pairs"], "share": found["share"], "bytes": found["peak"], "width": SIZES.width}
    report.add(key, paired.costs, paired, **details)
    seconds = sum(paired.ours) / found["share"]
    if place == 1:
        report.add(f"{key}_seconds", [seconds], pairs=found["pairs"])
    if key == "large_5k":
        report.add("large_memory", [found["peak"] / 2**20], pairs=found["pairs"])
    if key == "large_10k":
        report.add("large_10k_seconds", [seconds], pairs=found["pairs"], share=found["share"])
    report.judge(key)
