"""Times two things alternately in one run, A B A B, so that a disturbance affects both sides of a round's ratio."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.settings import SIZES


@dataclass(frozen=True)
class Paired:
    """Seconds of each round of the measured side and of what it is compared with, in order."""

    ours: tuple[float, ...]
    other: tuple[float, ...]

    @property
    def speedups(self) -> list[float]:
        """How many times faster ours is than the other, round by round."""
        return [b / a for a, b in zip(self.ours, self.other, strict=True)]

    @property
    def costs(self) -> list[float]:
        """How many times the other's time ours takes, round by round."""
        return [a / b for a, b in zip(self.ours, self.other, strict=True)]

    def seconds(self) -> dict[str, float]:
        """Median seconds of both sides."""
        return {"seconds": statistics.median(self.ours), "other_seconds": statistics.median(self.other)}


def spread(values: list[float]) -> dict[str, float | int]:
    """Median, quartiles, extremes and number of the values."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {
        "median": statistics.median(values),
        "q1": low,
        "q3": high,
        "min": min(values),
        "max": max(values),
        "rounds": len(values),
    }


def timed(run: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def alternate(benchmark: Any, ours: Callable[[], Any], other: Callable[[], Any]) -> Paired:
    """Runs other and ours in turn after one round that does not count; ours is also what pytest-benchmark reports."""
    once = timed(other) + timed(ours)
    rounds = max(SIZES.least, min(SIZES.rounds, int(SIZES.seconds / once)))
    seconds: dict[str, list[float]] = {"ours": [], "other": []}

    def before() -> None:
        seconds["other"].append(timed(other))

    def measured() -> None:
        seconds["ours"].append(timed(ours))

    benchmark.pedantic(measured, setup=before, rounds=rounds, iterations=1)
    return Paired(tuple(seconds["ours"]), tuple(seconds["other"]))


def agree(name: str, actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Stops a benchmark whose two sides do not compute the same; called on a small problem before the clock starts.

    Raises:
        AssertionError: saying by how much they differ.
    """
    difference = (actual.double() - expected.double()).abs().max().item()
    scale = max(1.0, expected.double().abs().max().item())
    assert torch.isfinite(actual).all(), f"{name}: not finite, so nothing was timed"
    assert difference <= tolerance * scale, f"{name}: differ by {difference:.2e}, so nothing was timed"
