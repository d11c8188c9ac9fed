"""What lies on a device is made once, dropped when others are wanted, and kept where a CUDA graph reads it."""

from __future__ import annotations

import gc
import weakref

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
