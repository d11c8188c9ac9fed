"""Relation attention by Triton kernels; graphs and heads that a kernel cannot hold go to ``eager``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cmsei_fast.engines import eager
from cmsei_fast.engines.terms import accumulator_dtype, narrow_labels
from cmsei_fast.engines.triton_launch import fitting, on_device
from cmsei_fast.engines.triton_sides import kernel_dtype

MAX_WIDTH = 256
MAX_NODES = 128  # of a graph for its gradients, which are computed in one tile


def _padded(n: int) -> int:
    return max(16, 1 << (n - 1).bit_length())


def _precisions(dtype: torch.dtype) -> dict[str, str]:
    """Precision of q · k, and of the products with P, which are in float32: rounded to tf32 only for bfloat16."""
    if dtype == torch.float64:
        return {"QK_PRECISION": "ieee", "PRECISION": "ieee"}
    if dtype == torch.float32:
        return {"QK_PRECISION": "tf32x3", "PRECISION": "tf32x3"}
    return {"QK_PRECISION": "tf32", "PRECISION": "tf32" if dtype == torch.bfloat16 else "tf32x3"}


def forward_tile(nodes: int, width: int, number_bytes: int) -> tuple[int, int]:
    """Queries and keys of a forward program, so that their rows fit the 99 KB of shared memory that every GPU has.

    Args:
        width: padded columns of a row.
        number_bytes: bytes of a number as it is multiplied: 2 for bfloat16, 4 for tf32x3, 8 for float64.
    """
    queries, keys = 16 if nodes <= 48 else 64, min(64, _padded(nodes))
    row_bytes = width * number_bytes
    if row_bytes > 512:
        return 16, min(keys, 32768 // row_bytes)
    return queries, min(keys, 32) if queries == 64 and row_bytes == 512 else keys


def _prepared(
    q: Tensor, labels: Tensor, bias: Tensor | None, value: Tensor | None, confidence: Tensor | None
) -> tuple[list[Tensor], dict[str, Any], list[Any]]:
    """The kernels' arguments: labels and tables (the labels stand in for tables that are not given), options, sizes."""
    acc_dtype = accumulator_dtype(q.dtype)
    tables = [None if x is None else x.detach().to(acc_dtype).contiguous() for x in (bias, value, confidence)]
    kernel_labels = narrow_labels(labels, bias is not None or value is not None)
    tensors = [kernel_labels, *(kernel_labels if x is None else x for x in tables)]
    options: dict[str, Any] = {"ACC_TYPE": kernel_dtype(acc_dtype), **_precisions(q.dtype)}
    options |= {f"HAS_{n}": x is not None for n, x in zip(("BIAS", "VALUE", "CONFIDENCE"), tables, strict=True)}
    n_labels = next((len(x) for x in (bias, value) if x is not None), 0)
    return tensors, options, [q.shape[1], q.shape[2], q.shape[3], n_labels, q.shape[3] ** -0.5]


@on_device
def relation_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    labels: Tensor,
    bias: Tensor | None = None,
    value: Tensor | None = None,
    confidence: Tensor | None = None,
) -> Tensor:
    """out (B, H, R, d) in q's dtype; arguments as the operator has checked them."""
    from cmsei_fast.kernels.relation_attention import relations_forward

    b, h, r, d = q.shape
    if not q.is_cuda and q.dtype == torch.bfloat16:  # in the interpreter, because NumPy has no bfloat16
        return relation_attention(q.float(), k.float(), v.float(), labels, bias, value, confidence).to(q.dtype)
    if d > MAX_WIDTH:
        return eager.relation_attention(q, k, v, labels, bias, value, confidence)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    tensors, options, sizes = _prepared(q, labels, bias, value, confidence)
    queries, keys = forward_tile(r, _padded(d), 2 if q.dtype == torch.bfloat16 else accumulator_dtype(q.dtype).itemsize)

    def launch() -> Tensor:
        relations_forward[b * h, -(-r // queries)](
            *(x.detach() for x in (q, k, v)),
            *tensors,
            out,
            *q.stride(),
            *k.stride(),
            *v.stride(),
            *sizes,
            BQ=queries,
            BK=keys,
            BD=_padded(d),
            **options,
            num_warps=4,
        )
        return out

    result = fitting(launch)
    return eager.relation_attention(q, k, v, labels, bias, value, confidence) if result is None else result


@on_device
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
    from cmsei_fast.kernels.relation_attention import relations_backward

    b, h, r, d = q.shape
    if not q.is_cuda and q.dtype == torch.bfloat16:
        q, k, v = q.float(), k.float(), v.float()
        gradients = relation_attention_backward(grad, q, k, v, labels, bias, value, confidence)
        return (*(x if x is None else x.bfloat16() for x in gradients[:3]), *gradients[3:])
    if d > MAX_WIDTH or r > MAX_NODES:
        return eager.relation_attention_backward(grad, q, k, v, labels, bias, value, confidence)
    acc_dtype = accumulator_dtype(q.dtype)
    tensors, options, sizes = _prepared(q, labels, bias, value, confidence)
    masked_grad = grad.to(acc_dtype).where((labels != 0).any(-1)[:, None, :, None], 0).contiguous()
    dq, dk, dv = (torch.empty(q.shape, dtype=acc_dtype, device=q.device) for _ in range(3))
    n_labels = sizes[3]
    p_bins, d_bins = (dq.new_empty((b, h, r, n_labels) if x is not None else 0) for x in (value, bias))
    d_logits = dq.new_empty((b, h, r, r) if confidence is not None else 0)

    def launch() -> bool:
        relations_backward[(b * h,)](
            masked_grad,
            *(x.detach() for x in (q, k, v)),
            *tensors,
            dq,
            dk,
            dv,
            p_bins,
            d_bins,
            d_logits,
            *q.stride(),
            *k.stride(),
            *v.stride(),
            *sizes,
            BQ=16,
            BK=_padded(r),
            BD=_padded(d),
            **options,
            num_warps=4 if _padded(r) * _padded(d) <= 4096 else 8,
        )
        return True

    if not fitting(launch):
        return eager.relation_attention_backward(grad, q, k, v, labels, bias, value, confidence)
    d_bias = d_value = d_confidence = None
    if bias is not None:
        d_bias = d_bins.sum((0, 2)).T.contiguous()  # (n_labels, H)
        d_bias[0] = 0
    if value is not None:
        bins = p_bins.permute(1, 3, 0, 2).flatten(2)  # (H, n_labels, B R)
        d_value = (bins @ masked_grad.transpose(0, 1).flatten(1, 2)).transpose(0, 1).contiguous()  # (n_labels, H, d)
        d_value[0] = 0
    if confidence is not None:
        d_confidence = (d_logits.sum(1) / confidence.to(acc_dtype)).where(labels != 0, 0)
    d_tables = [None if x is None or y is None else x.to(y.dtype) for x, y in ((d_bias, bias), (d_value, value))]
    d_confidence_out = None if d_confidence is None or confidence is None else d_confidence.to(confidence.dtype)
    return (*(x.to(q.dtype) for x in (dq, dk, dv)), *d_tables, d_confidence_out)
