"""Vector-Jacobian product of what one side asks (``pair.py``)."""

import triton
import triton.language as tl
from cmsei_fast.kernels.attend_vjp import add_to_slot, direction_vjp
from cmsei_fast.kernels.aware_vjp import aware_direction_vjp
from cmsei_fast.kernels.axes import along_context, each, sum_context, sum_of
from cmsei_fast.kernels.formulas import unit_factor, unit_factor_vjp, within, within_vjp
from cmsei_fast.kernels.levels import (
    attend_mean,
    attend_mean_vjp,
    attended_cosine,
    attended_cosine_vjp,
    attended_gram,
    pad_context,
)
from cmsei_fast.kernels.pair import load_gram
from cmsei_fast.kernels.products import gram_gradient


@triton.jit
def pair_terms_vjp(
    a,
    q,
    mask,
    n_q,
    n_c,
    mean_q,
    mean_c,
    context,
    own_grams,
    context_grams,
    captions,
    scalars,
    d,
    d_own_gram,
    d_context_gram,
    d_scalars,
    QUERY: tl.constexpr,
    NORM: tl.constexpr,
    ATTEND: tl.constexpr,
    RELEVANCE: tl.constexpr,
    AGGREGATE: tl.constexpr,
    STEPS: tl.constexpr,
    GATES: tl.constexpr,
    LEVEL: tl.constexpr,
    ALIGN: tl.constexpr,
    TURNED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of a pass's terms; arguments as ``pair.pair_terms`` takes them.

    Args:
        own_grams, context_grams: pointers to the Gram matrices; captions: how many of the tile's captions exist.
        d: (C,) gradient of the scores.
        d_own_gram, d_context_gram, d_scalars: added to.

    Returns:
        the gradients of a (BR, C, BL), q, mean_q and mean_c (C,), then the three that are added to.
    """
    d_a, d_q = tl.zeros_like(a), tl.zeros_like(q)
    d_mean_q, d_mean_c = tl.zeros_like(d), tl.zeros_like(d)
    guide, d_attention = q, tl.zeros_like(q)
    if LEVEL or AGGREGATE == "guided":
        mu = tl.load(scalars + 5)
        total = sum_context(a, QUERY)
        dot, guide, gamma = attend_mean(total, q, mask, mean_c, n_c, mu, QUERY)
    if NORM != "":
        if ATTEND == "negative_aware":
            d_a, d_q, d_attention, d_context_gram, d_scalars = aware_direction_vjp(
                a,
                q,
                context_grams,
                own_grams,
                captions,
                guide,
                mask,
                n_q,
                context,
                scalars,
                d,
                d_context_gram,
                d_scalars,
                NORM,
                AGGREGATE,
                QUERY,
                GATES,
                TURNED,
                PRECISION,
            )
        else:
            d_a, d_q, d_attention, d_context_gram, d_scalars = direction_vjp(
                a,
                q,
                context_grams,
                captions,
                guide,
                mask,
                n_q,
                context,
                scalars,
                d,
                d_context_gram,
                d_scalars,
                NORM,
                ATTEND,
                RELEVANCE,
                AGGREGATE,
                STEPS,
                QUERY,
                GATES,
                TURNED,
                PRECISION,
            )
    if LEVEL or AGGREGATE == "guided":
        d_dot, d_gamma = tl.zeros_like(q), tl.zeros_like(d)
        if LEVEL:
            own_gram = load_gram(own_grams, captions, a.shape[1], a.shape[2], a.shape[0], 3 - QUERY)
            h = attended_gram(guide, own_gram, 16, QUERY, TURNED, PRECISION)
            value = attended_cosine(dot, guide, h, gamma, QUERY)
            d_scalars = add_to_slot(d_scalars, 4 - QUERY, d * value)
            d_level = d * tl.load(scalars + 4 - QUERY)
            more, d_dot, d_gamma, d_quad = attended_cosine_vjp(dot, guide, h, gamma, d_level, QUERY)
            d_attention += more
            d_h = pad_context(guide * each(d_quad, QUERY), 16, QUERY)
            d_own_gram += gram_gradient(d_h, pad_context(guide, 16, QUERY), 3 - QUERY, PRECISION)
        d_logit = guide * (d_attention - each(sum_of(guide * d_attention, QUERY), QUERY))
        d_total, more_q, d_mean_c, d_mu = attend_mean_vjp(total, q, mean_c, n_c, mu, d_logit, d_dot, d_gamma, QUERY)
        d_scalars = add_to_slot(d_scalars, 5, d_mu)
        d_q += more_q
        d_a += along_context(d_total, QUERY)
    if ALIGN:
        share = 1 / (n_q * n_c)
        product = tl.sum(tl.sum(a, 2), 0) * share
        f_q, f_c = unit_factor(mean_q), unit_factor(mean_c)
        unit_q, unit_c = mean_q * f_q, mean_c * f_c
        dot = product * f_q * f_c
        d_scalars = add_to_slot(d_scalars, 4, d * within(dot, unit_q * unit_c))
        d_dot, d_most = within_vjp(dot, unit_q * unit_c, d * tl.load(scalars + 4))
        d_unit_q, d_unit_c = d_most * unit_c, d_most * unit_q
        d_a += (d_dot * share * f_q * f_c)[None, :, None]
        d_mean_q += d_unit_q * f_q + unit_factor_vjp(mean_q, d_dot * product * f_c + d_unit_q * mean_q)
        d_mean_c += d_unit_c * f_c + unit_factor_vjp(mean_c, d_dot * product * f_q + d_unit_c * mean_c)
    return d_a, d_q, d_mean_q, d_mean_c, d_own_gram, d_context_gram, d_scalars
