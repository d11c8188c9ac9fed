"""Vector-Jacobian product of a pass's terms (``pair.py``); ``d_x`` is the gradient of x."""

import triton
import triton.language as tl
from cmsei_fast.kernels.attend_vjp import add_to_slot, direction_vjp
from cmsei_fast.kernels.aware_vjp import aware_direction_vjp
from cmsei_fast.kernels.axes import along_context, caption_to_queries, sum_context, sum_per_caption
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
    query_mask,
    n_queries,
    n_context,
    mean_q,
    mean_c,
    context_mask,
    query_grams,
    context_grams,
    captions_left,
    scalars,
    d_score,
    d_query_gram,
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
        query_grams, context_grams, captions_left: pointers to the Gram matrices, as ``pair.load_gram`` takes them.
        d_score: (C,) gradient of the scores.
        d_query_gram, d_context_gram, d_scalars: added to.

    Returns:
        the gradients of a (BR, C, BL), of q, and of mean_q and mean_c (C,); then d_query_gram, d_context_gram and
        d_scalars.
    """
    d_a, d_q = tl.zeros_like(a), tl.zeros_like(q)
    d_mean_q, d_mean_c = tl.zeros_like(d_score), tl.zeros_like(d_score)
    guide, d_guide = q, tl.zeros_like(q)
    if LEVEL or AGGREGATE == "guided":
        mu = tl.load(scalars + 5)
        dot_sum = sum_context(a, QUERY)  # [C, BL] or [BR, C]
        dot, guide, g_length = attend_mean(dot_sum, q, query_mask, mean_c, n_context, mu, QUERY)
    if NORM != "":
        if ATTEND == "negative_aware":
            d_a, d_q, d_guide, d_context_gram, d_scalars = aware_direction_vjp(
                a,
                q,
                context_grams,
                query_grams,
                captions_left,
                guide,
                query_mask,
                n_queries,
                context_mask,
                scalars,
                d_score,
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
            d_a, d_q, d_guide, d_context_gram, d_scalars = direction_vjp(
                a,
                q,
                context_grams,
                captions_left,
                guide,
                query_mask,
                n_queries,
                context_mask,
                scalars,
                d_score,
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
        d_dot, d_g_length = tl.zeros_like(q), tl.zeros_like(d_score)
        if LEVEL:
            query_gram = load_gram(query_grams, captions_left, a.shape[1], a.shape[2], a.shape[0], 3 - QUERY)
            h = attended_gram(guide, query_gram, 16, QUERY, TURNED, PRECISION)
            level = attended_cosine(dot, guide, h, g_length, QUERY)
            d_scalars = add_to_slot(d_scalars, 4 - QUERY, d_score * level)
            d_level = d_score * tl.load(scalars + 4 - QUERY)
            d_guide_level, d_dot, d_g_length, d_u2 = attended_cosine_vjp(dot, guide, h, g_length, d_level, QUERY)
            d_guide += d_guide_level
            d_h = pad_context(guide * caption_to_queries(d_u2, QUERY), 16, QUERY)
            d_query_gram += gram_gradient(d_h, pad_context(guide, 16, QUERY), 3 - QUERY, PRECISION)
        d_logit = guide * (d_guide - caption_to_queries(sum_per_caption(guide * d_guide, QUERY), QUERY))
        d_dot_sum, d_q_level, d_mean_c, d_mu = attend_mean_vjp(
            dot_sum, q, mean_c, n_context, mu, d_logit, d_dot, d_g_length, QUERY
        )
        d_scalars = add_to_slot(d_scalars, 5, d_mu)
        d_q += d_q_level
        d_a += along_context(d_dot_sum, QUERY)
    if ALIGN:
        scale = 1 / (n_queries * n_context)
        mean_product = tl.sum(tl.sum(a, 2), 0) * scale  # [C]
        factor_q, factor_c = unit_factor(mean_q), unit_factor(mean_c)
        unit_q, unit_c = mean_q * factor_q, mean_c * factor_c
        dot = mean_product * factor_q * factor_c
        d_scalars = add_to_slot(d_scalars, 4, d_score * within(dot, unit_q * unit_c))
        d_dot, d_limit = within_vjp(dot, unit_q * unit_c, d_score * tl.load(scalars + 4))
        d_unit_q, d_unit_c = d_limit * unit_c, d_limit * unit_q
        d_a += (d_dot * scale * factor_q * factor_c)[None, :, None]
        d_mean_q += d_unit_q * factor_q + unit_factor_vjp(mean_q, d_dot * mean_product * factor_c + d_unit_q * mean_q)
        d_mean_c += d_unit_c * factor_c + unit_factor_vjp(mean_c, d_dot * mean_product * factor_q + d_unit_c * mean_c)
    return d_a, d_q, d_mean_q, d_mean_c, d_query_gram, d_context_gram, d_scalars
