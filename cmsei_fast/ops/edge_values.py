"""Checks the values of graphs' labels and confidences."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_State = tuple[int, int, torch.Size]
# What was read of tensors on a GPU, for which the processor waits until all that was asked before is done: those of one
# layer after another are the same. What changes without a trace (by .data) is told too late, but never read past a
# table: kernels on a GPU check each label themselves.
_ranges: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # labels -> their state, least and largest
_confident: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # confidence -> its state, whose edges, their state


def check_edges(labels: Tensor, n_labels: int | None, confidence: Tensor | None) -> None:
    """Checks what is real: tracing never comes here, nor may a CUDA graph's capture.

    Args:
        labels: integers of any shape, 0 for no edge.
        n_labels: they are to be below it; None: no limit.
        confidence: as labels in shape; in (0, 1] on every edge. None: not given.

    Raises:
        ValueError: saying what was expected and what came.
    """
    if labels.numel() == 0 or (labels.is_cuda and torch.cuda.is_current_stream_capturing()):
        return
    low, high = _range(labels)
    if low < 0:
        raise ValueError(f"labels: expected integers >= 0, got {low}")
    if n_labels is not None and high >= n_labels:
        raise ValueError(f"labels: expected integers below {n_labels} (n_labels), got {high}")
    if confidence is not None:
        _check_confidence(labels, confidence)


def _range(labels: Tensor) -> tuple[int, int]:
    if not _can_cache(labels):
        return read_range(labels)
    cached = _ranges.get(labels)
    if cached is None or cached[0] != _state(labels):
        cached = _ranges[labels] = (_state(labels), read_range(labels))
    return cached[1]


def read_range(labels: Tensor) -> tuple[int, int]:
    """The least and the largest, read at once."""
    low, high = torch.stack(labels.aminmax()).tolist()
    return low, high


def _check_confidence(labels: Tensor, confidence: Tensor) -> None:
    if not (_can_cache(labels) and _can_cache(confidence)):
        read_confidence(labels, confidence)
        return
    now = _state(confidence), _state(labels)
    cached = _confident.get(confidence)
    if cached is None or cached[0]() is not labels or cached[1] != now:
        read_confidence(labels, confidence)
        _confident[confidence] = (weakref.ref(labels), now)


def read_confidence(labels: Tensor, confidence: Tensor) -> None:
    """Raises ValueError where the confidence of an edge is not in (0, 1]."""
    wrong = (labels != 0) & ~((confidence > 0) & (confidence <= 1))
    if bool(wrong.any()):
        raise ValueError(f"confidence: expected values in (0, 1] on every edge, got {confidence[wrong][0].item():g}")


def _can_cache(x: Tensor) -> bool:
    """Whether it is worth it, and changes are counted: those of inference mode's tensors are not."""
    return x.is_cuda and not x.is_inference()


def _state(x: Tensor) -> _State:
    return x._version, x.data_ptr(), x.shape
