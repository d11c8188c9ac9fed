"""The relation attention of the CPU engine: calls the compiled kernels of ``csrc/`` on the tensors' memory.

Numerics: float32 throughout (float64 for float64 queries) whatever the inputs' types; results do not depend on the
number of threads.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from . import eager
from .terms import accumulator_dtype, narrow_labels

__all__ = ["relation_attention", "relation_attention_backward"]

_Strided = tuple[int, int, int, int]


def _function(name: str, dtype: torch.dtype) -> Any:
    module = importlib.import_module("cmsei_fast._native")
    return getattr(module, f"{name}_f64" if dtype == torch.float64 else f"{name}_f32")


def _isa() -> str:
    # At the call: the module `native` itself imports this one.
    from .native import current_isa

    return current_isa()


def rows_of(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in the dtype, its last axis contiguous in memory and holding its values."""
    x = x.detach().to(dtype)
    # Lazily conjugated or negated memory does not hold the values.
    x = x.resolve_neg()
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _dense(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if x is None else x.detach().to(dtype).contiguous().resolve_neg()


def _strided(x: Tensor) -> _Strided:
    return x.data_ptr(), x.stride(0), x.stride(1), x.stride(2)


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _sizes(q: Tensor, bias: Tensor | None, value: Tensor | None) -> list[int]:
    table = bias if bias is not None else value
    return [*q.shape, 0 if table is None else table.shape[0]]


def _too_many(q: Tensor) -> bool:
    """Whether a graph may have more edges than the kernels' lists, of 32-bit numbers, can tell apart."""
    return q.shape[2] ** 2 >= 2**31


def relation_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    value: Tensor | None,
    confidence: Tensor | None,
) -> Tensor:
    """Attention (B, H, R, d) in q's dtype over the edges of labelled graphs; arguments as the operator checked them.

    Args:
        q: (B, H, R, d) queries; k, v alike, any strides.
        k: keys.
        v: values.
        labels: (B, R, R) integers, 0 = no edge.
        bias: (n_labels, H) or None.
        value: (n_labels, H, d) or None.
        confidence: (B, R, R) in (0, 1] or None.
    """
    if _too_many(q):
        return eager.relation_attention(q, k, v, labels, bias, value, confidence)
    dtype = accumulator_dtype(q.dtype)
    qkv = [rows_of(x, dtype) for x in (q, k, v)]
    tables = [_dense(x, dtype) for x in (bias, value, confidence)]
    out = torch.empty(q.shape, dtype=dtype, device="cpu")
    if out.numel() == 0:
        return out.to(q.dtype)
    index = narrow_labels(labels, bias is not None or value is not None)
    _function("relation_attention", dtype)(
        _sizes(q, bias, value),
        [_strided(x) for x in qkv],
        index.data_ptr(),
        [_address(x) for x in tables],
        _strided(out),
        torch.get_num_threads(),
        _isa(),
    )
    return out.to(q.dtype)


def relation_attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    value: Tensor | None,
    confidence: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Gradients of q, k, v, bias, value and confidence, each in its input's dtype, None for an input not given.

    ``grad`` (B, H, R, d) is the gradient of the result; the attention weights are computed again, not stored.
    """
    if _too_many(q):
        return eager.relation_attention_backward(grad, q, k, v, labels, bias, value, confidence)
    dtype = accumulator_dtype(q.dtype)
    inputs = (bias, value, confidence)
    if q.numel() == 0:
        zeros = [None if x is None else torch.zeros_like(x) for x in inputs]
        return torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v), zeros[0], zeros[1], zeros[2]
    qkv = [rows_of(x, dtype) for x in (q, k, v)]
    tables = [_dense(x, dtype) for x in inputs]
    d_out = rows_of(grad, dtype)
    d_qkv = [torch.empty(x.shape, dtype=dtype, device="cpu") for x in qkv]
    d_tables = [None if x is None else torch.empty_like(x) for x in tables]
    index = narrow_labels(labels, bias is not None or value is not None)
    _function("relation_attention_backward", dtype)(
        _sizes(q, bias, value),
        [_strided(x) for x in qkv],
        index.data_ptr(),
        [_address(x) for x in tables],
        _strided(d_out),
        [_strided(x) for x in d_qkv],
        [_address(x) for x in d_tables],
        torch.get_num_threads(),
        _isa(),
    )
    d_bias, d_value, d_confidence = (
        None if d is None or x is None else d.to(x.dtype) for d, x in zip(d_tables, inputs, strict=True)
    )
    dq, dk, dv = d_qkv
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), d_bias, d_value, d_confidence
