"""Vector-Jacobian product of negative-aware attention (``aware.py``)."""

import triton
import triton.language as tl
from cmsei_fast.kernels.attend import normalise, weights
from cmsei_fast.kernels.attend_vjp import add_to_slot, aggregate_vjp, normalise_vjp
from cmsei_fast.kernels.aware import aware_attention
from cmsei_fast.kernels.axes import along_context, sum_context, sum_per_caption
from cmsei_fast.kernels.formulas import cosine, cosine_vjp, length, length_vjp, within_vjp
from cmsei_fast.kernels.pair import load_gram
from cmsei_fast.kernels.products import gram_gradient, gram_product


@triton.jit
def aware_direction_vjp(
    a,
    q,
    grams,
    query_grams,
    captions_left,
    guide,
    query_mask,
    n_queries,
    context_mask,
    scalars,
    d_score,
    d_gram,
    d_scalars,
    NORM: tl.constexpr,
    AGGREGATE: tl.constexpr,
    QUERY: tl.constexpr,
    GATES: tl.constexpr,
    TURNED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradient of a direction; arguments and results as those of ``attend_vjp.direction_vjp``.

    ``query_grams`` points to the queries' own Gram matrices. Which inner products are above the threshold, which is the
    largest and which queries are mismatches count as constant.
    """
    BR: tl.constexpr = a.shape[0]
    C: tl.constexpr = a.shape[1]
    BL: tl.constexpr = a.shape[2]
    temperature, lse = tl.load(scalars + 4 + 2 * QUERY), tl.load(scalars + 5 + 2 * QUERY)
    threshold = tl.load(scalars + GATES)
    tile_query_mask = along_context(query_mask, QUERY)
    soft_p = weights(a, temperature, tile_query_mask, context_mask, NORM, "softmax", QUERY)
    query_gram = load_gram(query_grams, captions_left, C, BL, BR, 3 - QUERY)
    p, is_argmax, margin, mismatch = aware_attention(
        a, query_gram, temperature, threshold, query_mask, context_mask, QUERY
    )
    h = gram_product(p, load_gram(grams, captions_left, C, BL, BR, QUERY), QUERY, TURNED, PRECISION)
    dot, u = sum_context(p * a, QUERY), length(sum_context(p * h, QUERY))
    r = cosine(dot, q, u)
    relevance = r + sum_context(soft_p * a, QUERY) + tl.where(mismatch, margin, 0.0)
    d_value = d_score * tl.load(scalars + QUERY - 1)
    value, d_r, d_guide, d_lse = aggregate_vjp(relevance, query_mask, n_queries, guide, lse, d_value, AGGREGATE, QUERY)
    d_scalars = add_to_slot(d_scalars, QUERY - 1, d_score * value)
    if AGGREGATE == "lse":
        d_scalars = add_to_slot(d_scalars, 5 + 2 * QUERY, d_lse)
    d_dot, d_limit = cosine_vjp(r, q * u, d_r)
    d_dot, d_limit_clamp = within_vjp(dot, q * u, d_dot)
    d_limit += d_limit_clamp
    d_q, d_u = d_limit * u, d_limit * q
    d_dot_tile, d_u2_tile = along_context(d_dot, QUERY), along_context(length_vjp(u, d_u), QUERY)
    d_gram += gram_gradient(d_u2_tile * p, p, QUERY, PRECISION)
    d_p = d_dot_tile * a + 2 * d_u2_tile * h
    d_logit = tl.where(tile_query_mask, p * (d_p - along_context(sum_context(p * d_p, QUERY), QUERY)), 0.0)
    d_r_tile = along_context(d_r, QUERY)
    d_soft_p = d_r_tile * a
    d_soft_logit = soft_p * (d_soft_p - along_context(sum_context(soft_p * d_soft_p, QUERY), QUERY))
    d_soft_logit = tl.where(tile_query_mask, d_soft_logit, 0.0)
    d_temperature = d_logit * tl.where(context_mask, a, 0.0) + d_soft_logit * normalise(a, tile_query_mask, NORM, QUERY)
    d_scalars = add_to_slot(d_scalars, 4 + 2 * QUERY, tl.sum(tl.sum(d_temperature, 2), 0))
    d_margin = tl.where(query_mask & mismatch, d_r, 0.0)
    d_scalars = add_to_slot(d_scalars, GATES, -sum_per_caption(d_margin, QUERY))
    d_a = (
        d_dot_tile * p
        + temperature * d_logit
        + d_r_tile * soft_p
        + tl.where(is_argmax, along_context(d_margin, QUERY), 0.0)
    )
    d_a += normalise_vjp(a, temperature * d_soft_logit, tile_query_mask, NORM, QUERY)
    return (
        tl.where(tile_query_mask & context_mask, d_a, 0.0),
        tl.where(query_mask, d_q, 0.0),
        d_guide,
        d_gram,
        d_scalars,
    )
