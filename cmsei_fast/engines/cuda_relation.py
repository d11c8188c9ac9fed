"""Relation attention by CUDA kernels, forward and backward; they take addresses and strides of tensors."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from cmsei_fast.engines import eager
from cmsei_fast.engines.terms import accumulator_dtype, narrow_labels

MAX_HEAD_DIM = 256

TYPES = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float64: "float64",
}


def _address_and_strides(x: Tensor) -> tuple[int, tuple[int, ...]]:
    return x.data_ptr(), x.stride()


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _device_and_stream(x: Tensor) -> tuple[int, int]:
    """The device's index and its current stream."""
    if x.device.type != "cuda":
        return 0, 0
    return x.device.index, torch.cuda.current_stream(x.device).cuda_stream


def _converted_tables(dtype: torch.dtype, *tables: Tensor | None) -> list[Tensor | None]:
    acc_dtype = accumulator_dtype(dtype)
    return [None if x is None else x.detach().to(acc_dtype).contiguous() for x in tables]


def _label_count(*tables: Tensor | None) -> int:
    return next((table.shape[0] for table in tables if table is not None), 0)


def _aligned_values(value: Tensor) -> Tensor:
    """The value table as the forward kernel reads it: channels padded to a multiple of 4, rows aligned to 16 bytes."""
    if value.shape[-1] % 4:
        return torch.nn.functional.pad(value, (0, 4 - value.shape[-1] % 4))
    return value if value.data_ptr() % 16 == 0 else value.clone()


def relation_attention(
    module: ModuleType,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    value: Tensor | None,
    confidence: Tensor | None,
) -> Tensor:
    """Attention (B, H, R, d) in q's dtype; ``module`` is ``cmsei_fast._cuda``, d is at most ``MAX_HEAD_DIM``."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if out.numel() == 0:
        return out
    labels = narrow_labels(labels, bias is not None or value is not None)
    tables = _converted_tables(q.dtype, bias, value, confidence)
    if tables[1] is not None:
        tables[1] = _aligned_values(tables[1])
    module.relation_attention(
        TYPES[q.dtype],
        tuple(q.shape),
        _label_count(bias, value),
        [_address_and_strides(x) for x in (q, k, v)],
        [labels.data_ptr(), *(_address(x) for x in tables)],
        out.data_ptr(),
        *_device_and_stream(q),
    )
    return out


def relation_attention_backward(
    module: ModuleType,
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    value: Tensor | None,
    confidence: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Gradients (q, k, v, bias, value, confidence), None for a table not given, each in its input's dtype.

    The engine ``eager`` takes graphs whose edges do not fit a block's shared memory, and tables of many labels.
    """
    if q.numel() == 0:
        return eager.relation_attention_backward(grad, q, k, v, labels, bias, value, confidence)
    type_name, shape, n_labels = TYPES[q.dtype], tuple(q.shape), _label_count(bias, value)
    device_and_stream = _device_and_stream(q)
    groups = module.relation_attention_groups(type_name, shape, n_labels, value is not None, device_and_stream[0])
    if groups == 0:
        return eager.relation_attention_backward(grad, q, k, v, labels, bias, value, confidence)
    batch, heads, nodes, _ = shape
    grad = grad.detach().to(q.dtype)
    kernel_labels = narrow_labels(labels, bias is not None or value is not None)
    tables = _converted_tables(q.dtype, bias, value, confidence)
    d_q, d_k, d_v = (torch.empty(shape, dtype=q.dtype, device=q.device) for _ in range(3))
    # One sum for each group of images: the order of summation is fixed.
    d_bias, d_value = (None if x is None else x.new_empty(groups, *x.shape) for x in tables[:2])
    d_logits = None if tables[2] is None else tables[2].new_empty(batch, heads, nodes, nodes)
    module.relation_attention_backward(
        type_name,
        shape,
        n_labels,
        [_address_and_strides(x) for x in (q, k, v)],
        [kernel_labels.data_ptr(), *(_address(x) for x in tables)],
        _address_and_strides(grad),
        [x.data_ptr() for x in (d_q, d_k, d_v)],
        [_address(x) for x in (d_bias, d_value, d_logits)],
        *device_and_stream,
    )
    d_confidence = None
    if d_logits is not None and tables[2] is not None:
        d_confidence = (d_logits.sum(1) / tables[2]).where(labels != 0, 0)
    sums = (None if x is None else x.sum(0) for x in (d_bias, d_value))
    d_tables = [
        None if gradient is None or x is None else gradient.to(x.dtype)
        for gradient, x in zip((*sums, d_confidence), (bias, value, confidence), strict=True)
    ]
    return (d_q, d_k, d_v, *d_tables)
