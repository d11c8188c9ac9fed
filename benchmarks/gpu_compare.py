"""Compares the results of ``gpu_cases.py``, and prints enough to locate the error in a wrong kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

R = TypeVar("R")


def off(what: str, found: Tensor, expected: Tensor, limit: float) -> float:
    """The largest difference over the largest number, as a part of the limit; infinite where something is not finite.

    Of more than the limit it prints how many numbers are wrong, the first and the worst, and the places of each axis.
    """
    found, expected = (x.detach().double().cpu() for x in (found, expected))
    largest = float(expected.abs().max().clamp(min=1))
    difference = (found - expected).abs().nan_to_num(nan=float("inf")) / largest
    worst = float(difference.max()) / limit
    if worst > 1:
        wrong = (difference > limit).nonzero()
        places = {"first": wrong[0].tolist(), "worst": _place(int(difference.argmax()), difference.shape)}
        print(f"{what}: {len(wrong)} of {difference.numel()} numbers of {list(found.shape)} are wrong,", end=" ")
        print(f"{int((~found.isfinite()).sum())} not finite; the largest expected is {largest:.6g}")
        for name, place in places.items():
            print(f"  {name} at {place}: {float(found[tuple(place)]):.9g} for {float(expected[tuple(place)]):.9g}")
        for axis in range(found.dim()):
            seen = wrong[:, axis].unique().tolist()
            print(f"  along axis {axis}, {len(seen)} places: {seen[:24]}{' …' if len(seen) > 24 else ''}")
    return worst


def _place(index: int, shape: torch.Size) -> list[int]:
    return [int(x) for x in torch.unravel_index(torch.tensor(index), shape)]


def step(what: str, device: str, run: Callable[[], R]) -> R:
    """Runs ``run`` to its end and returns the result; prints the step first, so that an error or a hang shows where."""
    print(what, flush=True)
    out = run()
    if device == "cuda":
        torch.cuda.synchronize()
    return out


def steady(what: str, once: Sequence[Tensor], again: Sequence[Tensor]) -> None:
    """Checks that two runs gave the same bits.

    Raises:
        AssertionError: naming the first number that differs.
    """
    for i, (x, y) in enumerate(zip(once, again, strict=True)):
        if not torch.equal(x, y):
            other = ((x != y) & ~(x.isnan() & y.isnan())).nonzero().tolist()
            where = f"{len(other)} of {x.numel()} numbers, the first at {other[0]}" if other else "NaN"
            raise AssertionError(f"{what}: result {i} is another at the second run: {where}")
