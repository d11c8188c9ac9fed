"""Bounds on the error of scores of rounded features: how far a pair's score can be from that of the exact features.

It covers scores that are sums, means, maxima or log-sum-exps of the queries' largest inner products. docs/pruning.md
derives it and uses the same names.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..scorer import Attention, PairScorer

# Twice the unit roundoff of float32: covers rounding up, down or to nearest, and second-order terms of many roundings.
UNIT = 2.0**-23
# Roundings of a score besides those of its sums: of weights, of the sum of both directions, of the compared score.
EXTRA_ROUNDINGS = 16
MOST_ROUNDINGS = 2.0**22
# From this length on, an inner product might overflow in float32, and the margin is infinite.
LONGEST = 2.0**50
# Largest loss of a multiply-add by underflow, times the largest length: 2^-126 · 2^50, with some slack.
UNDERFLOW = 2.0**-72
# Smaller weights do not reduce the loss by underflow any further.
SMALLEST = 2.0**-40
# Covers the rounding errors of computing the factors themselves.
SLACK = 1 + 2.0**-20
_CHUNK_BYTES = 1 << 20  # stays in a core's cache


def unbounded_setting(scorer: PairScorer) -> str | None:
    """A setting of a scorer for which there is no such bound, such as ``t2i steps=2``; None if all have one."""
    for name in ("object_sentence", "word_image", "alignment"):
        if (weight := getattr(scorer, name)) > 0:
            return f"{name}={weight:g}"
    for direction, attention in _directions(scorer):
        for name, allowed in (
            ("attend", ("hard",)),
            ("relevance", ("dot",)),
            ("aggregate", ("mean", "sum", "max", "lse")),
            ("steps", (1,)),
        ):
            if (value := getattr(attention, name)) not in allowed:
                return f"{direction} {name}={value!r}"
    return None


def factors(scorer: PairScorer, side: str, rows: Tensor, rounded: Tensor, offsets: Tensor) -> Tensor:
    """Factors of n images or captions; a pair's margin is the inner product of its image's and its caption's factors.

    Args:
        scorer: one that is not :func:`unbounded`.
        side: ``"image"`` or ``"caption"``.
        rows: (T, D) float32 or float64, the features as they are scored exactly.
        rounded: (T, D) the rounded features.
        offsets: (n + 1,) int64, rows before each item; no item is empty.

    Returns:
        (n, 3 · directions) float32, >= 0; infinite or NaN where no margin can be given.
    """
    residual, length = _residuals_and_lengths(rows, rounded)
    starts = offsets[:-1].numpy()
    n_rows = np.diff(offsets.numpy()).astype(np.float64)
    columns = []
    for direction, attention in _directions(scorer):
        if (side == "image") == (direction == "t2i"):
            longest = np.maximum.reduceat(length, starts)
            a, b = (attention.weight * x for x in (longest, np.maximum.reduceat(residual, starts)))
            weights = np.full_like(a, max(attention.weight, SMALLEST))
            columns += [_where_safe(longest, x) for x in (a, b, weights)]
        else:
            columns += _query_factors(attention, residual, length, starts, n_rows, rows.shape[1])
    return torch.from_numpy((np.stack(columns, 1) * SLACK).astype(np.float32))


def _query_factors(
    attention: Attention, residual: np.ndarray, length: np.ndarray, starts: np.ndarray, n_rows: np.ndarray, width: int
) -> list[np.ndarray]:
    """p, q and c of items whose rows are the queries: the pair's margin in this direction is p a + q b + c."""
    roundings = width + n_rows + EXTRA_ROUNDINGS
    gamma = np.where(roundings < MOST_ROUNDINGS, roundings * UNIT, np.inf)
    underflow = np.full_like(n_rows, width * UNDERFLOW)
    lse_error = np.zeros_like(n_rows)
    if attention.aggregate in ("mean", "sum"):
        epsilon, q = np.add.reduceat(residual, starts), np.add.reduceat(length, starts)
        bound, underflow = q, underflow * n_rows
        if attention.aggregate == "mean":
            epsilon, q, underflow = epsilon / n_rows, q / n_rows, underflow / n_rows
    else:
        epsilon, q = np.maximum.reduceat(residual, starts), np.maximum.reduceat(length, starts)
        bound = q
        if attention.aggregate == "lse":
            lse_error = (4 * n_rows + 32) * 2 * UNIT / attention.lse_temperature
            bound = q * max(1.0, attention.lse_temperature)
    p = epsilon + 2 * gamma * q
    return [_where_safe(bound * max(1.0, attention.weight), x) for x in (p, q, underflow + lse_error)]


def _where_safe(length: np.ndarray, value: np.ndarray) -> np.ndarray:
    return np.where(length < LONGEST, value, np.inf)


def _directions(scorer: PairScorer) -> list[tuple[str, Attention]]:
    both = (("t2i", scorer.t2i), ("i2t", scorer.i2t))
    return [(name, attention) for name, attention in both if attention is not None and attention.weight > 0]


def _residuals_and_lengths(rows: Tensor, rounded: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(T,) float64: lengths of the rows' residuals, and of the rows or the rounded rows, whichever is longer."""
    parts = []
    chunk = max(1, _CHUNK_BYTES // max(1, rows.shape[1] * rows.element_size()))
    for x, y in zip(rows.split(chunk), rounded.split(chunk), strict=True):
        y = y.to(x.dtype)
        parts.append(torch.stack([torch.linalg.vector_norm(z, dim=1, dtype=torch.float64) for z in (x - y, x, y)]))
    residual, length, rounded_length = torch.cat(parts, 1).numpy()
    return residual, np.maximum(length, rounded_length)
