"""Negative-aware attention (NAAF, Zhang et al. 2022, at test time): one step.

A query's relevance is the sum of three terms: the cosine with what it attends to above the threshold; its mean inner
product under the softmax over the whole context; and, if the query is a mismatch, its margin. The margin is the
query's largest inner product less the threshold. A query is a mismatch if the mean margin of the item's queries,
weighted by their similarity to it, is negative.
"""

import triton
import triton.language as tl
from cmsei_fast.kernels.attend import aggregate, weights
from cmsei_fast.kernels.axes import along_context, argmax_mask, max_context, sum_context
from cmsei_fast.kernels.formulas import cosine, length
from cmsei_fast.kernels.products import gram_product, unrounded_square


@triton.jit
def intra_attention_mean(values, query_gram, query_mask, QUERY: tl.constexpr):
    """Mean of a value over an item's queries, by their attention to each other: Σ_k softmax_k(5 Q·Q_k) values_k.

    Args:
        values: one per query, 0 where there is none; query_mask, of the same shape, says which exist.
        query_gram: Gram matrix of the queries, (C BL, C BL) of words or (BR, BR) of regions.
    """
    n_rows: tl.constexpr = query_gram.shape[0]
    if QUERY == 1:
        C: tl.constexpr = values.shape[0]
        BL: tl.constexpr = values.shape[1]
        query_index = tl.arange(0, n_rows)
        key_mask = tl.reshape(query_mask.to(tl.int32), (n_rows,))[None, :] > 0
        pair_mask = key_mask & (query_index[:, None] // BL == query_index[None, :] // BL)
    else:
        pair_mask = tl.max(query_mask.to(tl.int32), 1)[None, :] > 0
    logits = tl.where(pair_mask, 5 * query_gram, float("-inf"))
    e = tl.exp(logits - tl.expand_dims(tl.max(logits, 1), 1))
    attention = e / tl.expand_dims(tl.sum(e, 1), 1)  # [queries, queries]
    if QUERY == 1:
        out = tl.reshape(tl.sum(attention * tl.reshape(values, (n_rows,))[None, :], 1), (C, BL))
    else:
        out = tl.sum(attention[:, :, None] * values[None, :, :], 1)
    return out


@triton.jit
def aware_attention(a, query_gram, temperature, threshold, query_mask, context_mask, QUERY: tl.constexpr):
    """The attention above the threshold and what marks a mismatch.

    Returns:
        attention (BR, C, BL), 0 for a query that has nothing above the threshold; mask (BR, C, BL) of each query's
        largest a. Per query: its margin, and whether it is a mismatch.
    """
    above = context_mask & (a > threshold)
    logits = tl.where(above, temperature * a, float("-inf"))
    largest = max_context(logits, QUERY)
    e = tl.exp(logits - along_context(tl.where(largest == float("-inf"), 0.0, largest), QUERY))
    total = sum_context(e, QUERY)
    p = e / along_context(tl.where(total == 0, 1.0, total), QUERY)
    is_argmax = argmax_mask(a, context_mask, QUERY)
    margin = tl.where(query_mask, sum_context(tl.where(is_argmax, a, 0.0), QUERY) - threshold, 0.0)
    return p, is_argmax, margin, intra_attention_mean(margin, query_gram, query_mask, QUERY) < 0


@triton.jit
def aware_direction(
    a,
    q,
    gram,
    query_gram,
    guide,
    query_mask,
    n_queries,
    context_mask,
    temperature,
    lse,
    threshold,
    NORM: tl.constexpr,
    AGGREGATE: tl.constexpr,
    QUERY: tl.constexpr,
    TURNED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Score (C,) of a direction; arguments as ``attend.direction`` takes them, with the Gram matrix of the queries."""
    soft_p = weights(a, temperature, along_context(query_mask, QUERY), context_mask, NORM, "softmax", QUERY)
    p, _, margin, mismatch = aware_attention(a, query_gram, temperature, threshold, query_mask, context_mask, QUERY)
    h = gram_product(p, gram, QUERY, TURNED, PRECISION)
    u2 = sum_context(unrounded_square(p, h, gram, QUERY, PRECISION), QUERY)
    r = cosine(sum_context(p * a, QUERY), q, length(u2))
    r += sum_context(soft_p * a, QUERY) + tl.where(mismatch, margin, 0.0)
    return aggregate(r, query_mask, n_queries, guide, lse, AGGREGATE, QUERY)
