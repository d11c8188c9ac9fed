"""Relation-aware graph attention, as the custom operator ``cmsei_fast::relation_attention``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cmsei_fast import engines
from cmsei_fast.checks import FLOATING

from .derivatives import differentiable, first_only, refuse_tangents
from .edge_values import check_edges
from .operator import operator

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def relation_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    labels: Tensor,
    bias: Tensor | None = None,
    value: Tensor | None = None,
    confidence: Tensor | None = None,
    *,
    engine: str = "auto",
) -> Tensor:
    """Attention over the edges of a labelled graph; differentiable for everything but the labels.

    logit_hij = q_hi · k_hj / √d + bias[label_ij, h] + log confidence_ij, softmax over the j that i has an edge to, and
    out_hi = Σ_j P_hij (v_hj + value[label_ij, h]). A node without an edge gets 0. A NaN or an infinity in q, k or v
    makes the nodes with an edge to it NaN and affects no others (in triton, it may affect other nodes of the graph).

    Args:
        q: (B, H, R, d) queries, any strides; float16, bfloat16, float32 or float64.
        k: keys, with q's shape, dtype and device.
        v: values, likewise.
        labels: (B, R, R) integers below n_labels, the label of the edge from i to j; 0 means no edge.
        bias: (n_labels, H) added to the logits, any float dtype.
        value: (n_labels, H, d) added to the values, any float dtype.
        confidence: (B, R, R) in (0, 1] on every edge, any float dtype.
        engine: ``"auto"`` or an engine's name.

    Returns:
        (B, H, R, d) in q's dtype; sums are float32, or float64 for float64. Under autocast, q, k and v are first cast
        to its dtype, as in ``scaled_dot_product_attention``. Second derivatives and forward-mode derivatives raise an
        error. In float32, each step in the sum of a logit near 10⁶ may round by 0.03, so the weights and gradients of
        edges that nearly tie are then off by percents, in every engine, unless the sum is exact.

    Raises:
        TypeError: for an argument of the wrong type or dtype.
        ValueError: for shapes, devices, labels or confidences that do not fit.
        EngineUnavailable: if an engine requested by name cannot run here.
    """
    given = {"q": q, "k": k, "v": v, "labels": labels}
    given |= {n: x for n, x in (("bias", bias), ("value", value), ("confidence", confidence)) if x is not None}
    for name, x in given.items():
        if not isinstance(x, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}")
    device = q.device.type
    narrow = q.is_floating_point() and q.dtype != torch.float64
    if narrow and device != "meta" and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        q, k, v = (x.to(dtype) if x.is_floating_point() and x.dtype != torch.float64 else x for x in (q, k, v))
    refuse_tangents("relation_attention", q, k, v, bias, value, confidence)
    return _differentiable(q, k, v, labels, bias, value, confidence, engine)


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    value: Tensor | None,
    confidence: Tensor | None,
    engine: str,
) -> None:
    """Checks everything that can be checked without reading a tensor's values."""
    if engine != "auto":
        engines.check_name(engine)
    if q.dtype not in FLOATING:
        raise TypeError(f"q: expected float16, bfloat16, float32 or float64, got {q.dtype}")
    if q.dim() != 4:
        raise ValueError(f"q: expected 4 dimensions (B, H, R, d), got shape {tuple(q.shape)}")
    b, h, r, d = q.shape
    if d == 0:
        raise ValueError("q: expected a last dimension of at least 1, got 0")
    for name, x in (("k", k), ("v", v)):
        if x.dtype != q.dtype:
            raise TypeError(f"{name}: expected dtype {q.dtype} (as q), got {x.dtype}")
        if x.shape != q.shape:
            raise ValueError(f"{name}: expected shape {tuple(q.shape)} (as q), got {tuple(x.shape)}")
    if labels.dtype not in _INTEGERS:
        raise TypeError(f"labels: expected an integer dtype, got {labels.dtype}")
    if labels.shape != (b, r, r):
        raise ValueError(f"labels: expected shape {(b, r, r)} (B, R, R), got {tuple(labels.shape)}")
    tables: tuple[tuple[str, Tensor | None, tuple[int, ...], str], ...] = (
        ("bias", bias, (h,), "(n_labels, H)"),
        ("value", value, (h, d), "(n_labels, H, d)"),
    )
    for name, table, wanted, layout in tables:
        if table is None:
            continue
        _check_float(name, table)
        if table.dim() != 1 + len(wanted) or table.shape[1:] != wanted or table.shape[0] == 0:
            sizes = ", ".join(str(n) for n in wanted)
            raise ValueError(f"{name}: expected shape (n_labels, {sizes}) {layout}, got {tuple(table.shape)}")
    if bias is not None and value is not None and bias.shape[0] != value.shape[0]:
        raise ValueError(f"value: expected {bias.shape[0]} labels (as bias), got {value.shape[0]}")
    if confidence is not None:
        _check_float("confidence", confidence)
        if confidence.shape != (b, r, r):
            raise ValueError(f"confidence: expected shape {(b, r, r)} (B, R, R), got {tuple(confidence.shape)}")
    others = {"k": k, "v": v, "labels": labels, "bias": bias, "value": value, "confidence": confidence}
    for name, other in others.items():
        if other is not None and other.device != q.device:
            raise ValueError(f"{name}: expected device {q.device} (as q), got {other.device}")


def _check_float(name: str, x: Tensor) -> None:
    if x.dtype not in FLOATING:
        raise TypeError(f"{name}: expected float16, bfloat16, float32 or float64, got {x.dtype}")


@operator(
    "cmsei_fast::relation_attention",
    "(Tensor q, Tensor k, Tensor v, Tensor labels, Tensor? bias, Tensor? value, Tensor? confidence, str engine)"
    " -> Tensor",
)
def _relation_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    value: Tensor | None,
    confidence: Tensor | None,
    engine: str,
) -> Tensor:
    _check(q, k, v, labels, bias, value, confidence, engine)
    table = bias if bias is not None else value
    check_edges(labels, None if table is None else len(table), confidence)
    module = engines.resolve(engine, q.device, "relation_attention")
    if q.numel() == 0:
        return q.new_empty(q.shape)
    with torch.autocast(q.device.type, enabled=False):
        return module.relation_attention(q, k, v, labels, bias, value, confidence)


@_relation_attention.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    value: Tensor | None,
    confidence: Tensor | None,
    engine: str,
) -> Tensor:
    _check(q, k, v, labels, bias, value, confidence, engine)
    return q.new_empty(q.shape)


@operator(
    "cmsei_fast::relation_attention_backward",
    "(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor labels, Tensor? bias, Tensor? value, "
    "Tensor? confidence, str engine) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _relation_attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    value: Tensor | None,
    confidence: Tensor | None,
    engine: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    module = engines.resolve(engine, q.device, "relation_attention")
    inputs = (q, k, v, bias, value, confidence)
    if q.numel() == 0:
        grads = tuple(None if x is None else x.new_zeros(x.shape) for x in inputs)
    else:
        with torch.autocast(q.device.type, enabled=False):
            grads = module.relation_attention_backward(grad, q, k, v, labels, bias, value, confidence)
    # A schema has no optional outputs: an input that was not given has an empty gradient.
    dq, dk, dv, d_bias, d_value, d_confidence = (q.new_empty(0) if g is None else g for g in grads)
    return dq, dk, dv, d_bias, d_value, d_confidence


@_relation_attention_backward.register_fake
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    value: Tensor | None,
    confidence: Tensor | None,
    engine: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = (q, k, v, bias, value, confidence)
    dq, dk, dv, d_bias, d_value, d_confidence = (q.new_empty(0) if x is None else x.new_empty(x.shape) for x in inputs)
    return dq, dk, dv, d_bias, d_value, d_confidence


def _setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, engine = inputs
    ctx.save_for_backward(*tensors)
    ctx.engine = engine


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = _gradient(grad, *ctx.saved_tensors, ctx.engine)
    needed = [ctx.needs_input_grad[i] for i in (0, 1, 2, 4, 5, 6)]
    dq, dk, dv, d_bias, d_value, d_confidence = (g if n else None for g, n in zip(grads, needed, strict=True))
    return dq, dk, dv, None, d_bias, d_value, d_confidence, None


_differentiable = differentiable("relation_attention", _relation_attention, _backward, _setup_context)
_gradient = differentiable("relation_attention", _relation_attention_backward, first_only("relation_attention"))
