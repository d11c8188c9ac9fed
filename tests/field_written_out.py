"""What the repositories of the field compute, written out: SCAN's score of a pair, ranks by sorting; their options."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import leaky_relu, normalize

LENGTHS = [1, 4, 6, 3]


def options(**changes: Any) -> Namespace:
    """SCAN's options, BFAN's and NAAF's."""
    known = {"raw_feature_norm": "clipped_l2norm", "agg_func": "LogSumExp", "lambda_softmax": 9.0, "lambda_lse": 6.0}
    return Namespace(**{**known, "focal_type": "equal", "thres_safe": 0.1, "batch_size": 128, **changes})


def problem(images: int = 3, width: int = 8, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(images)
    v = torch.randn(images, 5, width, generator=generator, dtype=torch.float64)
    w = torch.randn(len(LENGTHS), max(LENGTHS) + 2, width, generator=generator, dtype=torch.float64)
    return normalize(v + 0.3, dim=-1).to(dtype), normalize(w + 0.3, dim=-1).to(dtype)


def normalised(a: Tensor, name: str) -> Tensor:
    """Inner products a (context, queries) over the queries of each context item."""
    a = leaky_relu(a, 0.1) if "clipped" in name else a
    if name == "softmax":
        return a.exp() / a.exp().sum(1, keepdim=True)
    if "l2norm" in name:
        return a / (a.square().sum(1, keepdim=True).sqrt() + 1e-8)
    return a / (a.abs().sum(1, keepdim=True) + 1e-8) if "l1norm" in name else a


def literal(queries: Tensor, context: Tensor, opt: Namespace) -> Tensor:
    """SCAN's score of one pair, each vector in full."""
    a = normalised(context @ queries.T, opt.raw_feature_norm)
    attended = (opt.lambda_softmax * a).softmax(0).T @ context
    r = (queries * attended).sum(1) / (queries.norm(dim=1) * attended.norm(dim=1))
    if opt.agg_func == "LogSumExp":
        return (opt.lambda_lse * r).exp().sum().log() / opt.lambda_lse
    return {"Max": r.max(), "Sum": r.sum(), "Mean": r.mean()}[opt.agg_func]


def all_pairs(images: Tensor, captions: Tensor, pair: Any) -> Tensor:
    return torch.stack([torch.stack([pair(v, w[:n]) for w, n in zip(captions, LENGTHS, strict=True)]) for v in images])


def sorted_ranks(sims: np.ndarray, captions: int, direction: str) -> tuple[np.ndarray, np.ndarray]:
    """The field's way: sort, look up the places, count from 0."""
    rows = sims if direction == "i2t" else sims.T
    order = [np.argsort(row)[::-1] for row in rows]
    if direction == "i2t":
        own = [range(captions * i, captions * (i + 1)) for i in range(len(rows))]
    else:
        own = [[j // captions] for j in range(len(rows))]
    places = [min(int(np.where(o == x)[0][0]) for x in mine) for o, mine in zip(order, own, strict=True)]
    return np.array(places), np.array([o[0] for o in order])
