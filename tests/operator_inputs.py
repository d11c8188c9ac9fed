"""Small inputs of both operators, with gradients."""

from __future__ import annotations

import torch
from problems import Problem
from torch import Tensor

from cmsei_fast import Attention, PairScorer

SCORER = PairScorer(
    t2i=Attention(aggregate="guided", steps=2),
    i2t=Attention(0.5, 4.0, "softmax", "lse", steps=2),
    object_sentence=0.5,
    alignment=1.0,
)


def scored(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    v, w, v_offsets, w_offsets = Problem(SCORER, (5, 1, 7), (3, 2), 8).tensors()
    return v.to(dtype).requires_grad_(), w.to(dtype).requires_grad_(), v_offsets, w_offsets


def attended(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 4, dtype=dtype, requires_grad=True) for _ in range(3))
    labels = torch.randint(0, 6, (2, 5, 5))
    bias, value = torch.randn(6, 3, dtype=dtype), torch.randn(6, 3, 4, dtype=dtype)
    confidence = torch.rand(2, 5, 5, dtype=dtype) * 0.9 + 0.1
    return [q, k, v, labels, bias.requires_grad_(), value.requires_grad_(), confidence.requires_grad_()]
