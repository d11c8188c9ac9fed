"""Negative-aware attention (NAAF, Zhang et al. 2022, at test time): one step.

A query's relevance is the cosine of what it finds above the threshold, the inner product under the plain softmax, and,
for a mismatch that the queries like it confirm, how far its largest inner product is below the threshold.
"""

import triton
import triton.language as tl
from cmsei_fast.kernels.attend import aggregate, weights
from cmsei_fast.kernels.axes import along_context, first_largest, max_context, sum_context
from cmsei_fast.kernels.formulas import cosine, length
from cmsei_fast.kernels.products import gram_product, unrounded_square


@triton.jit
def agreement(x, own_gram, mask, QUERY: tl.constexpr):
    """Of each query Σ_k softmax_k(5 Q·Q_k) x_k over the queries of its item that mask names; x as mask, 0 elsewhere.

    own_gram: (C BL, C BL) where words ask, (BR, BR) where regions ask.
    """
    n: tl.constexpr = own_gram.shape[0]
    if QUERY == 1:
        C: tl.constexpr = x.shape[0]
        BL: tl.constexpr = x.shape[1]
        i = tl.arange(0, n)
        keys = tl.reshape(mask.to(tl.int32), (n,))[None, :] > 0
        there = keys & (i[:, None] // BL == i[None, :] // BL)
    else:
        there = tl.max(mask.to(tl.int32), 1)[None, :] > 0
    logits = tl.where(there, 5 * own_gram, float("-inf"))
    e = tl.exp(logits - tl.expand_dims(tl.max(logits, 1), 1))
    alike = e / tl.expand_dims(tl.sum(e, 1), 1)
    if QUERY == 1:
        out = tl.reshape(tl.sum(alike * tl.reshape(x, (n,))[None, :], 1), (C, BL))
    else:
        out = tl.sum(alike[:, :, None] * x[None, :, :], 1)
    return out


@triton.jit
def aware_attention(a, own_gram, temperature, threshold, mask, context, QUERY: tl.constexpr):
    """The attention above the threshold (BR, C, BL), 0 where nothing is; where a is first largest; of each query how
    far that is above the threshold, and whether it counts as a mismatch.
    """
    above = context & (a > threshold)
    logits = tl.where(above, temperature * a, float("-inf"))
    most = max_context(logits, QUERY)
    e = tl.exp(logits - along_context(tl.where(most == float("-inf"), 0.0, most), QUERY))
    total = sum_context(e, QUERY)
    p = e / along_context(tl.where(total == 0, 1.0, total), QUERY)
    first = first_largest(a, context, QUERY)
    best = tl.where(mask, sum_context(tl.where(first, a, 0.0), QUERY) - threshold, 0.0)
    return p, first, best, agreement(best, own_gram, mask, QUERY) < 0


@triton.jit
def aware_direction(
    a,
    q,
    gram,
    own_gram,
    guide,
    mask,
    count,
    context,
    temperature,
    lse,
    threshold,
    NORM: tl.constexpr,
    AGGREGATE: tl.constexpr,
    QUERY: tl.constexpr,
    TURNED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Score (C,) of a direction; arguments as ``attend.direction`` takes them, and the queries' own Gram matrix."""
    plain = weights(a, temperature, along_context(mask, QUERY), context, NORM, "softmax", QUERY)
    p, _, best, mismatch = aware_attention(a, own_gram, temperature, threshold, mask, context, QUERY)
    h = gram_product(p, gram, QUERY, TURNED, PRECISION)
    square = sum_context(unrounded_square(p, h, gram, QUERY, PRECISION), QUERY)
    r = cosine(sum_context(p * a, QUERY), q, length(square))
    r += sum_context(plain * a, QUERY) + tl.where(mismatch, best, 0.0)
    return aggregate(r, mask, count, guide, lse, AGGREGATE, QUERY)
