"""How the measures of ``gpu_measures.py`` take time and memory, and their sizes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.pages import ROOT

Rows = dict[str, dict[str, Any]]  # a measure's result: {row: {column: figure, or why there is none}}
MEASURE_SECONDS = 150  # at most, for one measure
FEATURES = ROOT / "gpu-features.npz"  # of gpu_recall.py; without it no recall is measured


@dataclass(frozen=True)
class GpuSizes:
    """Sizes: images × captions of scoring, of its part for slow forms, of a batch and of the largest run."""

    width: int
    score: tuple[int, int]
    part: tuple[int, int]
    batch: int
    graphs: int
    heads: int
    head_width: int
    scale: tuple[int, int]
    rounds: int


FULL = GpuSizes(1024, (5000, 25000), (128, 128), 256, 128, 8, 128, (10000, 50000), 7)
SMALL = GpuSizes(16, (3, 4), (2, 2), 2, 1, 1, 8, (4, 5), 1)


@dataclass
class Run:
    """Device, sizes and dtype of a run, the engine that is measured, and the times to compare with."""

    device: torch.device
    sizes: GpuSizes
    dtype: torch.dtype
    engine: str = "triton"
    others: dict[str, Any] = field(default_factory=dict)

    def seconds(self, call: Callable[[], Any], rounds: int | None = None) -> float:
        """Median time of a call, after one call to warm up."""
        call()
        times = []
        for _ in range(rounds or self.sizes.rounds):
            if self.device.type == "cuda":
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                call()
                end.record()
                end.synchronize()
                times.append(begin.elapsed_time(end) / 1e3)
            else:
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
        return statistics.median(times)

    def replayed(self, call: Callable[[], Any]) -> float | str:
        """Median time of a call's replay as a CUDA graph, without the cost of launching; or why there is none."""
        if self.device.type != "cuda":
            return "not measured: needs a GPU"

        def captured() -> float:
            stream = torch.cuda.Stream(self.device)
            stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(stream):
                call()
            torch.cuda.current_stream(self.device).wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                output = call()  # noqa: F841 (its memory is the graph's)
            return self.seconds(graph.replay, 3 * self.sizes.rounds)

        return self.time_or_reason(captured)

    def attempt(self, call: Callable[[], Any], rounds: int | None = None) -> float | str:
        """Median time of a call that may fail here (a compiler, too little memory), or why it failed."""
        return self.time_or_reason(lambda: self.seconds(call, rounds))

    def time_or_reason(self, measure: Callable[[], float]) -> float | str:
        """Returns the time that ``measure`` returns, or why it failed."""
        try:
            return measure()
        except Exception as error:  # a compiler's own errors have no common type
            return f"{type(error).__name__}: {str(error)[:120]}"

    def other(self, key: str, measure: Callable[[], Any]) -> Any:
        """Returns what an earlier engine's run measured under this key, or else ``measure()``."""
        if key not in self.others:
            self.others[key] = measure()
        return self.others[key]

    def peak(self, call: Callable[[], Any]) -> int:
        """Most bytes allocated during a call beyond those before it; 0 where the device does not count them."""
        if self.device.type != "cuda":
            call()
            return 0
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        call()
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) - before


def ratio(other: float | str, seconds: float) -> float | str:
    """How many times faster ours is, or why the other has no time."""
    return other if isinstance(other, str) else other / seconds
