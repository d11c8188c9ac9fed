"""What lies on a device is made once, dropped when others are wanted, and kept where a CUDA graph reads it."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import pytest
import torch

from cmsei_fast.engines.device_cache import device_cache


@pytest.mark.parametrize("captured", [False, True])
def test_what_a_graph_has_captured_outlives_the_cache(monkeypatch: pytest.MonkeyPatch, captured: bool) -> None:
    made: list[int] = []

    @device_cache(2)
    def numbers(n: int) -> torch.Tensor:
        made.append(n)
        return torch.full((n,), float(n))

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    seen = weakref.ref(numbers(1))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: captured)
    assert numbers(1) is seen()
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert made == [1]
    for n in (2, 3):
        numbers(n)
    gc.collect()
    assert (seen() is not None) == captured
    assert made == [1, 2, 3]


class OnGPU(torch.Tensor):
    """Says that it is on a GPU, and remembers the streams that it was recorded on."""

    is_cuda = True
    recorded: ClassVar[list[int]] = []

    def record_stream(self, stream: Any) -> None:
        self.recorded.append(stream.cuda_stream)


class Pair(NamedTuple):
    where: torch.Tensor
    host: torch.Tensor


@dataclass(frozen=True)
class Held:
    """As layouts are: tensors at several depths, and other things."""

    first: torch.Tensor
    pairs: tuple[Pair, ...]
    rows: slice


def test_other_streams_that_read_it_are_told_to_the_allocator_once(monkeypatch: pytest.MonkeyPatch) -> None:
    current, capturing = [7], [False]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=current[0]))
    monkeypatch.setattr(OnGPU, "recorded", [])

    def there() -> torch.Tensor:
        return torch.zeros(1).as_subclass(OnGPU)

    @device_cache(2)
    def held(n: int) -> Held:
        return Held(there(), (Pair(there(), torch.zeros(1)), Pair(there(), torch.zeros(n))), slice(n))

    for stream, capture, recorded in ((7, False, 0), (8, True, 0), (8, False, 3), (8, False, 3), (7, False, 3)):
        current[0], capturing[0] = stream, capture
        assert held(1) is held(1)
        assert OnGPU.recorded == [8] * recorded
