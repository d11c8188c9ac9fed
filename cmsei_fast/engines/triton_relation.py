"""Relation attention by Triton kernels; what a kernel cannot hold goes to ``eager``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cmsei_fast.engines import eager
from cmsei_fast.engines.terms import accumulator_dtype, narrow_labels
from cmsei_fast.engines.triton_launch import fitting, on_device
from cmsei_fast.engines.triton_sides import kernel_dtype

MAX_WIDTH = 256
MAX_NODES = 128  # of a graph whose gradients are one tile


def _block(n: int) -> int:
    return max(16, 1 << (n - 1).bit_length())


def _precisions(dtype: torch.dtype) -> dict[str, str]:
    """How q · k is multiplied, and how products with P (in float32) are: rounded to tf32 for bfloat16 only."""
    if dtype == torch.float64:
        return {"NATIVE": "ieee", "PRECISION": "ieee"}
    if dtype == torch.float32:
        return {"NATIVE": "tf32x3", "PRECISION": "tf32x3"}
    return {"NATIVE": "tf32", "PRECISION": "tf32" if dtype == torch.bfloat16 else "tf32x3"}


def forward_tile(nodes: int, width: int, bytes_: int) -> tuple[int, int]:
    """Queries and keys of a forward program, whose rows then fit the 99 KB of shared memory that any GPU has.

    Args:
        width: padded columns of a row.
        bytes_: of a number as it is multiplied: two for bfloat16, four where products are split in three, eight.
    """
    queries, keys = 16 if nodes <= 48 else 64, min(64, _block(nodes))
    row = width * bytes_
    if row > 512:
        return 16, min(keys, 32768 // row)
    return queries, min(keys, 32) if queries == 64 and row == 512 else keys


def _prepared(
    q: Tensor, labels: Tensor, bias: Tensor | None, value: Tensor | None, confidence: Tensor | None
) -> tuple[list[Tensor], dict[str, Any], list[Any]]:
    """Labels and tables as the kernels read them (any tensor stands for one not given), options, sizes."""
    wide = accumulator_dtype(q.dtype)
    tables = [None if x is None else x.detach().to(wide).contiguous() for x in (bias, value, confidence)]
    index = narrow_labels(labels, bias is not None or value is not None)
    given = [index, *(index if x is None else x for x in tables)]
    options: dict[str, Any] = {"WIDE": kernel_dtype(wide), **_precisions(q.dtype)}
    options |= {f"HAS_{n}": x is not None for n, x in zip(("BIAS", "VALUE", "CONFIDENCE"), tables, strict=True)}
    n_labels = next((len(x) for x in (bias, value) if x is not None), 0)
    return given, options, [q.shape[1], q.shape[2], q.shape[3], n_labels, q.shape[3] ** -0.5]


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
    if not q.is_cuda and q.dtype == torch.bfloat16:  # the interpreter: NumPy has no bfloat16
        return relation_attention(q.float(), k.float(), v.float(), labels, bias, value, confidence).to(q.dtype)
    if d > MAX_WIDTH:
        return eager.relation_attention(q, k, v, labels, bias, value, confidence)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    given, options, sizes = _prepared(q, labels, bias, value, confidence)
    queries, keys = forward_tile(r, _block(d), 2 if q.dtype == torch.bfloat16 else accumulator_dtype(q.dtype).itemsize)

    def run() -> Tensor:
        relations_forward[b * h, -(-r // queries)](
            *(x.detach() for x in (q, k, v)),
            *given,
            out,
            *q.stride(),
            *k.stride(),
            *v.stride(),
            *sizes,
            BQ=queries,
            BK=keys,
            BD=_block(d),
            **options,
            num_warps=4,
        )
        return out

    found = fitting(run)
    return eager.relation_attention(q, k, v, labels, bias, value, confidence) if found is None else found


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
        found = relation_attention_backward(grad, q, k, v, labels, bias, value, confidence)
        return (*(x if x is None else x.bfloat16() for x in found[:3]), *found[3:])
    if d > MAX_WIDTH or r > MAX_NODES:
        return eager.relation_attention_backward(grad, q, k, v, labels, bias, value, confidence)
    wide = accumulator_dtype(q.dtype)
    given, options, sizes = _prepared(q, labels, bias, value, confidence)
    upstream = grad.to(wide).where((labels != 0).any(-1)[:, None, :, None], 0).contiguous()
    dq, dk, dv = (torch.empty(q.shape, dtype=wide, device=q.device) for _ in range(3))
    n = sizes[3]
    p_bins, d_bins = (dq.new_empty((b, h, r, n) if x is not None else 0) for x in (value, bias))
    d_logits = dq.new_empty((b, h, r, r) if confidence is not None else 0)

    def run() -> bool:
        relations_backward[(b * h,)](
            upstream,
            *(x.detach() for x in (q, k, v)),
            *given,
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
            BK=_block(r),
            BD=_block(d),
            **options,
            num_warps=4 if _block(r) * _block(d) <= 4096 else 8,
        )
        return True

    if not fitting(run):
        return eager.relation_attention_backward(grad, q, k, v, labels, bias, value, confidence)
    d_bias = d_value = d_confidence = None
    if bias is not None:
        d_bias = d_bins.sum((0, 2)).T.contiguous()  # (n_labels, H)
        d_bias[0] = 0
    if value is not None:
        bins = p_bins.permute(1, 3, 0, 2).flatten(2)  # (H, n_labels, B R)
        d_value = (bins @ upstream.transpose(0, 1).flatten(1, 2)).transpose(0, 1).contiguous()  # (n_labels, H, d)
        d_value[0] = 0
    if confidence is not None:
        d_confidence = (d_logits.sum(1) / confidence.to(wide)).where(labels != 0, 0)
    tables = [None if x is None or y is None else x.to(y.dtype) for x, y in ((d_bias, bias), (d_value, value))]
    last = None if d_confidence is None or confidence is None else d_confidence.to(confidence.dtype)
    return (*(x.to(q.dtype) for x in (dq, dk, dv)), *tables, last)
