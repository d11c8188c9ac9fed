"""Puts a scorer's scalars where a GPU engine's kernels read them."""

from __future__ import annotations

import torch
from torch import Tensor

from cmsei_fast.engines.device_cache import device_cache
from cmsei_fast.engines.terms import accumulator


def scalars_on(device: torch.device, scalars: Tensor, precision: str) -> Tensor:
    """The scalars on the device, contiguous, in the accumulator's dtype.

    Copies from the CPU are cached by their values: a copy waits for the GPU and cannot be captured in a graph.
    """
    dtype = accumulator(precision)
    if scalars.device.type == "cpu":
        return _copied(tuple(scalars.detach().double().tolist()), dtype, str(device))
    return scalars.detach().to(device, dtype).contiguous()


@device_cache(64)
def _copied(values: tuple[float, ...], dtype: torch.dtype, device: str) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)
