"""A cache for tensors that are needed repeatedly on a device."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


class _Cached(Generic[R]):
    """A cached value that holds tensors, and the streams already recorded with the GPU's allocator as using it."""

    def __init__(self, value: R) -> None:
        self.value = value
        self.tensors = tuple(x for x in _tensors(value) if x.is_cuda)
        self.streams = {self._stream().cuda_stream} if self.tensors else set()

    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.current_stream(self.tensors[0].device)

    def mark_used(self) -> None:
        """Records the current stream, so that memory dropped from the cache is not reused before its kernels end."""
        if self.tensors and (stream := self._stream()).cuda_stream not in self.streams:
            self.streams.add(stream.cuda_stream)
            for x in self.tensors:
                x.record_stream(stream)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in a tensor, a dataclass or tuples of them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for x in value:
            yield from _tensors(x)
    elif dataclasses.is_dataclass(value):
        for each in dataclasses.fields(value):
            yield from _tensors(getattr(value, each.name))


def device_cache(size: int) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A ``functools.lru_cache`` of tensors, or of dataclasses and tuples of them, that streams may share.

    They are made by copies that wait, so any stream may read them at once. What a CUDA graph has captured, whose
    replays read it, is never freed.
    """

    def decorate(make: Callable[P, R]) -> Callable[P, R]:
        cached: Callable[..., _Cached[R]] = functools.lru_cache(size)(
            lambda *args, **kwargs: _Cached(make(*args, **kwargs))
        )
        captured: dict[int, _Cached[R]] = {}

        @functools.wraps(make)
        def lookup(*args: Any, **kwargs: Any) -> R:
            entry = cached(*args, **kwargs)
            if torch.cuda.is_initialized():
                if torch.cuda.is_current_stream_capturing():
                    captured[id(entry)] = entry
                else:
                    entry.mark_used()
            return entry.value

        return lookup

    return decorate
