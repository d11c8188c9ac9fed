"""Labels and confidences on a GPU are read once while they stay as they are."""

from __future__ import annotations

import gc
from collections import Counter

import pytest
import torch
from torch import Tensor

from cmsei_fast.ops import edge_values, relation_attention


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each was read, where the CPU's tensors are taken for a GPU's."""
    found: Counter[str] = Counter()
    for name in ("read_range", "read_confidence"):
        real = getattr(edge_values, name)
        monkeypatch.setattr(edge_values, name, lambda *x, name=name, real=real: (found.update([name]), real(*x))[1])
    monkeypatch.setattr(edge_values, "_can_cache", lambda x: not x.is_inference())
    return found


def graph() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Nodes (1, 2, 4, 3), labels, a table of five labels and confidences."""
    torch.manual_seed(0)
    return torch.randn(1, 2, 4, 3), torch.randint(0, 5, (1, 4, 4)), torch.randn(5, 2), torch.rand(1, 4, 4) + 1e-3


def test_the_same_labels_are_read_once(reads: Counter[str]) -> None:
    x, labels, bias, confidence = graph()
    confidence = confidence.clamp(max=1).requires_grad_()
    for _ in range(3):
        relation_attention(x, x, x, labels, bias, confidence=confidence).sum().backward()
    assert reads == {"read_range": 1, "read_confidence": 1}
    relation_attention(x, x, x, labels, torch.randn(9, 2))  # of another table
    assert reads["read_range"] == 1
    with pytest.raises(ValueError, match=rf"labels: expected integers below 3 \(n_labels\), got {labels.max()}"):
        relation_attention(x, x, x, labels, bias[:3])
    with pytest.raises(ValueError, match="expected integers below 3"):
        relation_attention(x, x, x, labels, bias[:3])
    assert reads["read_range"] == 1
    relation_attention(x, x, x, labels.clone(), bias, confidence=confidence)
    assert reads == {"read_range": 2, "read_confidence": 2}


def test_what_was_changed_is_read_again(reads: Counter[str]) -> None:
    x, labels, bias, confidence = graph()
    confidence.clamp_(max=1)
    labels[0, 0, 1] = 1
    relation_attention(x, x, x, labels, bias, confidence=confidence)
    view = labels[0]
    view[0, 1] = 7  # by a view too
    with pytest.raises(ValueError, match="labels: expected integers below 5"):
        relation_attention(x, x, x, labels, bias, confidence=confidence)
    view[0, 1] = -1
    with pytest.raises(ValueError, match="labels: expected integers >= 0, got -1"):
        relation_attention(x, x, x, labels, bias, confidence=confidence)
    view[0, 1] = 1
    confidence[0, 0, 1] = 2
    for _ in range(2):  # what is wrong is not remembered as right
        with pytest.raises(ValueError, match=r"confidence: expected values in \(0, 1\] on every edge, got 2"):
            relation_attention(x, x, x, labels, bias, confidence=confidence)
    labels[0, 0, 1] = 0  # no edge
    relation_attention(x, x, x, labels, bias, confidence=confidence)
    labels[0, 0, 1] = 1
    with pytest.raises(ValueError, match="on every edge, got 2"):
        relation_attention(x, x, x, labels, bias, confidence=confidence)
    labels.data = torch.full_like(labels, 6)  # changes no version
    with pytest.raises(ValueError, match="labels: expected integers below 5"):
        relation_attention(x, x, x, labels, bias)


def test_inference_tensors_count_no_changes(reads: Counter[str]) -> None:
    x, labels, bias, _ = graph()
    with torch.inference_mode():
        labels = labels.clone()
        for n in (1, 2):
            relation_attention(x, x, x, labels, bias)
            assert reads["read_range"] == n


def test_nothing_is_held(reads: Counter[str]) -> None:
    x, labels, bias, confidence = graph()
    gc.collect()
    before = len(edge_values._ranges), len(edge_values._confident)
    relation_attention(x, x, x, labels, bias, confidence=confidence.clamp_(max=1))
    assert (len(edge_values._ranges), len(edge_values._confident)) == (before[0] + 1, before[1] + 1)
    del labels, confidence
    gc.collect()
    assert (len(edge_values._ranges), len(edge_values._confident)) == before


def test_on_the_cpu_they_are_read_each_time() -> None:
    """Other arrays may share their memory, and native reads what they say."""
    x, labels, bias, _ = graph()
    shared = labels.numpy()
    relation_attention(x, x, x, labels, bias)
    shared[0, 0, 0] = 9
    with pytest.raises(ValueError, match="labels: expected integers below 5"):
        relation_attention(x, x, x, labels, bias)
