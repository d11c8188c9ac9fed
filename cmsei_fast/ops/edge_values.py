"""Checks the values of graphs' labels and confidences."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_State = tuple[int, int, torch.Size]
# Values read from tensors on a GPU. Each read waits for all queued work, and successive layers share their tensors.
# A change that torch does not count (by .data) is noticed too late, but never reads past a table: kernels on a GPU
# check each label themselves.
_ranges: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # labels -> their state, least and largest
_confident: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # confidence -> its state, its labels, their state


def check_edges(labels: Tensor, n_labels: int | None, confidence: Tensor | None) -> None:
    """Checks the values of real tensors: skipped while a CUDA graph is captured, and never called while tracing.

    Args:
        labels: integers of any shape, 0 for no edge.
        n_labels: labels must be below it; None: no limit.
        confidence: of the shape of labels, in (0, 1] on every edge; None: not given.

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
    """The smallest and the largest label, in one read."""
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
    """True where a read is slow and torch counts changes, which it does not for tensors of inference mode."""
    return x.is_cuda and not x.is_inference()


def _state(x: Tensor) -> _State:
    return x._version, x.data_ptr(), x.shape
