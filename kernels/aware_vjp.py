"""Vector-Jacobian product of negative-aware attention (``aware.py``)."""

import triton
import triton.language as tl
from cmsei_fast.kernels.attend import normalise, weights
from cmsei_fast.kernels.attend_vjp import add_to_slot, aggregate_vjp, normalise_vjp
from cmsei_fast.kernels.aware import aware_attention
from cmsei_fast.kernels.axes import along_context, sum_context, sum_of
from cmsei_fast.kernels.formulas import cosine, cosine_vjp, length, length_vjp, within_vjp
from cmsei_fast.kernels.pair import load_gram
from cmsei_fast.kernels.products import gram_gradient, gram_product


@triton.jit
def aware_direction_vjp(
    a,
    q,
    grams,
    own_grams,
    captions,
    guide,
    mask,
    count,
    context,
    scalars,
    d,
    d_gram,
    d_scalars,
    NORM: tl.constexpr,
    AGGREGATE: tl.constexpr,
    QUERY: tl.constexpr,
    GATES: tl.constexpr,
    TURNED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Back through a direction; arguments and results as ``attend_vjp.direction_vjp`` has them. What is above the
    threshold, first or a mismatch is a constant.
    """
    BR: tl.constexpr = a.shape[0]
    C: tl.constexpr = a.shape[1]
    BL: tl.constexpr = a.shape[2]
    temperature, lse = tl.load(scalars + 4 + 2 * QUERY), tl.load(scalars + 5 + 2 * QUERY)
    threshold = tl.load(scalars + GATES)
    queries = along_context(mask, QUERY)
    plain = weights(a, temperature, queries, context, NORM, "softmax", QUERY)
    own_gram = load_gram(own_grams, captions, C, BL, BR, 3 - QUERY)
    p, first, best, mismatch = aware_attention(a, own_gram, temperature, threshold, mask, context, QUERY)
    h = gram_product(p, load_gram(grams, captions, C, BL, BR, QUERY), QUERY, TURNED, PRECISION)
    dot, u = sum_context(p * a, QUERY), length(sum_context(p * h, QUERY))
    r = cosine(dot, q, u)
    total = r + sum_context(plain * a, QUERY) + tl.where(mismatch, best, 0.0)
    weighted = d * tl.load(scalars + QUERY - 1)
    value, d_r, d_guide, d_lse = aggregate_vjp(total, mask, count, guide, lse, weighted, AGGREGATE, QUERY)
    d_scalars = add_to_slot(d_scalars, QUERY - 1, d * value)
    if AGGREGATE == "lse":
        d_scalars = add_to_slot(d_scalars, 5 + 2 * QUERY, d_lse)
    d_dot, d_most = cosine_vjp(r, q * u, d_r)
    d_dot, from_held = within_vjp(dot, q * u, d_dot)
    d_most += from_held
    d_q, d_u = d_most * u, d_most * q
    each_dot, each_quad = along_context(d_dot, QUERY), along_context(length_vjp(u, d_u), QUERY)
    d_gram += gram_gradient(each_quad * p, p, QUERY, PRECISION)
    d_p = each_dot * a + 2 * each_quad * h
    d_logit = tl.where(queries, p * (d_p - along_context(sum_context(p * d_p, QUERY), QUERY)), 0.0)
    each_r = along_context(d_r, QUERY)
    d_plain = each_r * a
    d_soft = plain * (d_plain - along_context(sum_context(plain * d_plain, QUERY), QUERY))
    d_soft = tl.where(queries, d_soft, 0.0)
    of_temperature = d_logit * tl.where(context, a, 0.0) + d_soft * normalise(a, queries, NORM, QUERY)
    d_scalars = add_to_slot(d_scalars, 4 + 2 * QUERY, tl.sum(tl.sum(of_temperature, 2), 0))
    missed = tl.where(mask & mismatch, d_r, 0.0)
    d_scalars = add_to_slot(d_scalars, GATES, -sum_of(missed, QUERY))
    d_a = each_dot * p + temperature * d_logit + each_r * plain + tl.where(first, along_context(missed, QUERY), 0.0)
    d_a += normalise_vjp(a, temperature * d_soft, queries, NORM, QUERY)
    return tl.where(queries & context, d_a, 0.0), tl.where(mask, d_q, 0.0), d_guide, d_gram, d_scalars
