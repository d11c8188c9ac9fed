"""A bound, valid for every pair, on how far the score of rounded features can be from that of the features themselves.

It covers scores that are sums, means, maxima or log-sum-exps of the queries' largest inner products. docs/pruning.md
derives it and uses the same names.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..scorer import Attention, PairScorer

# Of float32, doubled: rounding up, down or to the nearest, and the terms of second order of many roundings.
UNIT = 2.0**-23
# Roundings of a score that are not sums' terms: of weights, of both directions' sum, of what a score is compared with.
FEW = 16
MOST_ROUNDINGS = 2.0**22
# Lengths from which an inner product might overflow in float32: nothing is said of them.
LONGEST = 2.0**50
# What a multiply-add can lose below float32's normal numbers, times a length: 2^-126 · 2^50, with room.
UNDERFLOW = 2.0**-72
# Weights below it do not scale what underflow loses.
SMALLEST = 2.0**-40
# The factors' own arithmetic.
ROOM = 1 + 2.0**-20
_CHUNK_BYTES = 1 << 20  # stays in a core's cache


def unbounded(scorer: PairScorer) -> str | None:
    """What of a scorer has no such bound; None where all of it has."""
    for name in ("object_sentence", "word_image", "alignment"):
        if (weight := getattr(scorer, name)) > 0:
            return f"{name}={weight:g}"
    for direction, attention in _directions(scorer):
        for name, good in (
            ("attend", ("hard",)),
            ("relevance", ("dot",)),
            ("aggregate", ("mean", "sum", "max", "lse")),
            ("steps", (1,)),
        ):
            if (value := getattr(attention, name)) not in good:
                return f"{direction} {name}={value!r}"
    return None


def factors(scorer: PairScorer, side: str, rows: Tensor, rounded: Tensor, offsets: Tensor) -> Tensor:
    """Factors (n, 3 directions) of n images or captions: a pair's margin is the inner product of its two sides'.

    Args:
        scorer: one that is not :func:`unbounded`.
        side: ``"image"`` or ``"caption"``.
        rows: (T, D) float32 or float64, as they are scored; ``rounded`` (T, D) as they are scored first.
        offsets: (n + 1,) int64, rows before each item; no item is empty.

    Returns:
        float32, >= 0; infinite or NaN where nothing can be said.
    """
    residual, length = _lengths(rows, rounded)
    starts = offsets[:-1].numpy()
    size = np.diff(offsets.numpy()).astype(np.float64)
    columns = []
    for direction, attention in _directions(scorer):
        if (side == "image") == (direction == "t2i"):
            longest = np.maximum.reduceat(length, starts)
            a, b = (attention.weight * x for x in (longest, np.maximum.reduceat(residual, starts)))
            one = np.full_like(a, max(attention.weight, SMALLEST))
            columns += [_where_safe(longest, x) for x in (a, b, one)]
        else:
            columns += _asking(attention, residual, length, starts, size, rows.shape[1])
    return torch.from_numpy((np.stack(columns, 1) * ROOM).astype(np.float32))


def _asking(
    attention: Attention, residual: np.ndarray, length: np.ndarray, starts: np.ndarray, size: np.ndarray, depth: int
) -> list[np.ndarray]:
    """p, q and c of items whose rows ask: the pair's margin is p a + q b + c."""
    roundings = depth + size + FEW
    gamma = np.where(roundings < MOST_ROUNDINGS, roundings * UNIT, np.inf)
    below = np.full_like(size, depth * UNDERFLOW)
    extra = np.zeros_like(size)
    if attention.aggregate in ("mean", "sum"):
        epsilon, q = np.add.reduceat(residual, starts), np.add.reduceat(length, starts)
        total, below = q, below * size
        if attention.aggregate == "mean":
            epsilon, q, below = epsilon / size, q / size, below / size
    else:
        epsilon, q = np.maximum.reduceat(residual, starts), np.maximum.reduceat(length, starts)
        total = q
        if attention.aggregate == "lse":
            extra = (4 * size + 32) * 2 * UNIT / attention.lse_temperature
            total = q * max(1.0, attention.lse_temperature)
    p = epsilon + 2 * gamma * q
    return [_where_safe(total * max(1.0, attention.weight), x) for x in (p, q, below + extra)]


def _where_safe(size: np.ndarray, value: np.ndarray) -> np.ndarray:
    return np.where(size < LONGEST, value, np.inf)


def _directions(scorer: PairScorer) -> list[tuple[str, Attention]]:
    both = (("t2i", scorer.t2i), ("i2t", scorer.i2t))
    return [(name, attention) for name, attention in both if attention is not None and attention.weight > 0]


def _lengths(rows: Tensor, rounded: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(T,) float64: lengths of the rows' residuals, and of the rows or the rounded rows, whichever is longer."""
    parts = []
    chunk = max(1, _CHUNK_BYTES // max(1, rows.shape[1] * rows.element_size()))
    for x, y in zip(rows.split(chunk), rounded.split(chunk), strict=True):
        y = y.to(x.dtype)
        parts.append(torch.stack([torch.linalg.vector_norm(z, dim=1, dtype=torch.float64) for z in (x - y, x, y)]))
    residual, exact, low = torch.cat(parts, 1).numpy()
    return residual, np.maximum(exact, low)
