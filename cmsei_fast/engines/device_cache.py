"""What lies on a device and is asked for again and again, kept."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def device_cache(size: int) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A ``functools.lru_cache`` of tensors; what a CUDA graph has captured, whose replays read it, is never freed."""

    def decorate(make: Callable[P, R]) -> Callable[P, R]:
        cached: Callable[..., R] = functools.lru_cache(size)(make)
        captured: dict[Hashable, R] = {}

        @functools.wraps(make)
        def found(*args: Any, **kwargs: Any) -> R:
            out = cached(*args, **kwargs)
            if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
                captured[id(out)] = out
            return out

        return found

    return decorate
