"""Compares the results of ``gpu_cases.py``, and prints enough to locate the error in a wrong kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

R = TypeVar("R")


def difference_over_limit(title: str, actual: Tensor, expected: Tensor, limit: float) -> float:
    """The largest difference, relative to the largest expected number, over the limit; infinite if it is not finite.

    If it is more than 1, this prints how many numbers are wrong, the first and the worst, and where along each axis.
    """
    actual, expected = (x.detach().double().cpu() for x in (actual, expected))
    largest = float(expected.abs().max().clamp(min=1))
    difference = (actual - expected).abs().nan_to_num(nan=float("inf")) / largest
    worst = float(difference.max()) / limit
    if worst > 1:
        wrong = (difference > limit).nonzero()
        positions = {"first": wrong[0].tolist(), "worst": _position(int(difference.argmax()), difference.shape)}
        print(f"{title}: {len(wrong)} of {difference.numel()} numbers of {list(actual.shape)} are wrong,", end=" ")
        print(f"{int((~actual.isfinite()).sum())} not finite; the largest expected is {largest:.6g}")
        for name, at in positions.items():
            print(f"  {name} at {at}: {float(actual[tuple(at)]):.9g} for {float(expected[tuple(at)]):.9g}")
        for axis in range(actual.dim()):
            indices = wrong[:, axis].unique().tolist()
            print(f"  along axis {axis}, {len(indices)} places: {indices[:24]}{' …' if len(indices) > 24 else ''}")
    return worst


def _position(index: int, shape: torch.Size) -> list[int]:
    return [int(x) for x in torch.unravel_index(torch.tensor(index), shape)]


def step(title: str, device: str, run: Callable[[], R]) -> R:
    """Runs ``run`` to its end and returns the result; prints the step first, so that an error or a hang shows where."""
    print(title, flush=True)
    result = run()
    if device == "cuda":
        torch.cuda.synchronize()
    return result


def check_same_bits(title: str, first_run: Sequence[Tensor], second_run: Sequence[Tensor]) -> None:
    """Checks that two runs gave the same bits.

    Raises:
        AssertionError: naming the first number that differs.
    """
    for i, (first, second) in enumerate(zip(first_run, second_run, strict=True)):
        if not torch.equal(first, second):
            differing = ((first != second) & ~(first.isnan() & second.isnan())).nonzero().tolist()
            where = f"{len(differing)} of {first.numel()} numbers, the first at {differing[0]}" if differing else "NaN"
            raise AssertionError(f"{title}: result {i} is another at the second run: {where}")
