"""Relation-aware graph attention in batched torch operations, with a hand-written gradient."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cmsei_fast.engines.terms import accumulator_dtype


class _Attended(NamedTuple):
    """The forward's intermediates that the backward shares, in the accumulator's dtype."""

    q: Tensor  # (B, H, R, d), as k and v
    k: Tensor
    v: Tensor
    label: Tensor  # (B, H, R, R) int64 labels, expanded over the heads
    edge: Tensor  # (B, 1, R, R)
    p: Tensor  # (B, H, R, R)


def _attended(
    q: Tensor, k: Tensor, v: Tensor, labels: Tensor, bias: Tensor | None, confidence: Tensor | None
) -> _Attended:
    wide = accumulator_dtype(q.dtype)
    edge = (labels != 0)[:, None]
    q, k, v = (x.to(wide) for x in (q, k, v))
    logits = (q @ k.mT) / q.shape[-1] ** 0.5
    index = labels.long()
    if bias is not None:
        logits = logits + bias.to(wide).T[:, index].transpose(0, 1)
    if confidence is not None:
        logits = logits + confidence.to(wide).log()[:, None]
    p = logits.masked_fill(~edge, -torch.inf).softmax(-1).where(edge, 0)  # without an edge: NaN, then 0
    return _Attended(q, k, v, index[:, None].expand_as(p), edge, p)


def attention_probabilities(
    q: Tensor, k: Tensor, labels: Tensor, bias: Tensor | None = None, confidence: Tensor | None = None
) -> Tensor:
    """P (B, H, R, R) of :func:`relation_attention`, 0 where there is no edge; a row without an edge is 0."""
    return _attended(q, k, k, labels, bias, confidence).p


def _combined(weights: Tensor, rows: Tensor, edge: Tensor) -> Tensor:
    """weights (B, H, m, n) @ rows (B, H, n, d); weights are 0 where ``edge`` (B, 1, m, n) is False.

    A number of a row that is not finite makes NaN of the results whose edge to the row is True, and no others.
    """
    if rows.device.type == "cpu":  # on a GPU, reading a number would wait for all queued work
        out = weights @ rows
        if bool(out.sum().isfinite()):
            return out
    finite = rows.isfinite()
    reached = edge.to(rows.dtype) @ (~finite).to(rows.dtype)
    return (weights @ rows.where(finite, 0)).where(reached == 0, torch.nan)


def _per_label(x: Tensor, index: Tensor, n_labels: int) -> Tensor:
    """(H, B R, n_labels − 1): x (B, H, R, R) summed over the pairs of each label but 0."""
    bins = x.new_zeros(*x.shape[:3], n_labels).scatter_add_(3, index, x)
    return bins[..., 1:].transpose(0, 1).flatten(1, 2)


def relation_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    labels: Tensor,
    bias: Tensor | None = None,
    value: Tensor | None = None,
    confidence: Tensor | None = None,
) -> Tensor:
    """out (B, H, R, d) in q's dtype: P is binned by label, so that each label's value is multiplied once."""
    at = _attended(q, k, v, labels, bias, confidence)
    out = _combined(at.p, at.v, at.edge)
    if value is not None:
        b, h, r, d = out.shape
        carried = _per_label(at.p, at.label, len(value)) @ value[1:].to(out.dtype).transpose(0, 1)  # (H, B R, d)
        out = out + carried.view(h, b, r, d).transpose(0, 1)
    return out.to(q.dtype).contiguous()


def relation_attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    labels: Tensor,
    bias: Tensor | None = None,
    value: Tensor | None = None,
    confidence: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """Gradients for q, k, v, bias, value and confidence (None for those not given), in their dtypes."""
    at = _attended(q, k, v, labels, bias, confidence)
    grad = grad.to(at.p.dtype).where(at.edge.any(-1)[..., None], 0)  # (B, H, R, d)
    d_p = grad @ at.v.mT
    d_bias = d_value = d_confidence = None
    if value is not None:
        wide = value.to(grad.dtype).transpose(0, 1)  # (H, n_labels, d)
        d_p = d_p + (grad @ wide.mT).gather(3, at.label)
        rows = grad.transpose(0, 1).flatten(1, 2)  # (H, B R, d)
        d_value = _per_label(at.p, at.label, len(value)).mT @ rows  # (H, n_labels − 1, d)
        d_value = torch.cat([torch.zeros_like(wide[:, :1]), d_value], 1).transpose(0, 1).to(value.dtype).contiguous()
    d_p = d_p.where(at.edge, 0)
    d_logits = (at.p * (d_p - (at.p * d_p).sum(-1, keepdim=True))).where(at.edge, 0)
    if bias is not None:
        d_bias = _per_label(d_logits, at.label, len(bias)).sum(1).T  # (n_labels − 1, H)
        d_bias = torch.cat([torch.zeros_like(d_bias[:1]), d_bias]) if len(d_bias) else torch.zeros_like(bias)
        d_bias = d_bias.to(bias.dtype).contiguous()
    if confidence is not None:
        d_confidence = d_logits.sum(1) / confidence.to(grad.dtype)
        d_confidence = d_confidence.where(at.edge[:, 0], 0).to(confidence.dtype).contiguous()
    d_logits = d_logits / q.shape[-1] ** 0.5
    d_q = _combined(d_logits, at.k, at.edge)
    d_k, d_v = (_combined(x.mT, y, at.edge.mT) for x, y in ((d_logits, at.q), (at.p, grad)))
    return (*(x.to(q.dtype).contiguous() for x in (d_q, d_k, d_v)), d_bias, d_value, d_confidence)
