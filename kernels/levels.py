"""The cross-level attention: the queries of a tile (``axes.py``) attend to ĝ, the unit mean of the context.

It is word–image for words (QUERY 1), object–sentence for regions (QUERY 2). What belongs to the context is one value
per caption, (C,): ``mean_c``, the length of its mean; ``n_context``, its number of items; ``g_length``, the length of
ĝ, which is 1 unless the mean is near 0. The attended vector is the sum of the queries, weighted by their attention.
"""

import triton
import triton.language as tl
from cmsei_fast.kernels.axes import caption_to_queries, max_per_caption, sum_context, sum_per_caption
from cmsei_fast.kernels.formulas import (
    at_least_eps,
    cosine,
    cosine_vjp,
    length,
    length_vjp,
    unit_factor,
    unit_factor_vjp,
    within,
    within_vjp,
)
from cmsei_fast.kernels.products import gram_product


@triton.jit
def attend_mean(dot_sum, q, query_mask, mean_c, n_context, mu, QUERY: tl.constexpr):
    """The attention of the queries to ĝ.

    Args:
        dot_sum: inner product of each query with the sum of the context.
        q: lengths of the queries; query_mask says which exist.
        mu: temperature.

    Returns:
        per query, its inner product with ĝ, clamped to the product of the lengths, and its attention, 0 in the padding;
        then g_length (C,).
    """
    factor = unit_factor(mean_c)
    g_length = mean_c * factor
    limit = q * caption_to_queries(g_length, QUERY)
    dot = within(dot_sum * caption_to_queries(factor / n_context, QUERY), limit)
    logits = tl.where(query_mask, mu * (dot / at_least_eps(limit)), float("-inf"))
    e = tl.exp(logits - caption_to_queries(max_per_caption(logits, QUERY), QUERY))
    return dot, e / caption_to_queries(sum_per_caption(e, QUERY), QUERY), g_length


@triton.jit
def pad_context(x, BLOCK: tl.constexpr, QUERY: tl.constexpr):
    """A value per query, padded with zeros to a context axis of BLOCK: the values come first.

    x (C, BL) becomes (BLOCK, C, BL), x (BR, C) becomes (BR, C, BLOCK). A product takes a BLOCK of at least 16.
    """
    is_first = tl.arange(0, BLOCK) == 0
    if QUERY == 1:
        out = tl.where(is_first[:, None, None], x[None, :, :], 0.0)
    else:
        out = tl.where(is_first[None, None, :], x[:, :, None], 0.0)
    return out


@triton.jit
def attended_gram(
    attention, gram, BLOCK: tl.constexpr, QUERY: tl.constexpr, TURNED: tl.constexpr, PRECISION: tl.constexpr
):
    """attention · Gram matrix of the queries, on the tensor cores; BLOCK as for :func:`pad_context`."""
    return sum_context(gram_product(pad_context(attention, BLOCK, QUERY), gram, 3 - QUERY, TURNED, PRECISION), QUERY)


@triton.jit
def attended_cosine(dot, attention, h, g_length, QUERY: tl.constexpr):
    """Cosine (C,) of the attended vector and ĝ, from the results of :func:`attend_mean` and h = attention · Gram."""
    u = length(sum_per_caption(attention * h, QUERY))
    return cosine(sum_per_caption(attention * dot, QUERY), u, g_length)


@triton.jit
def attended_cosine_vjp(dot, attention, h, g_length, d_cosine, QUERY: tl.constexpr):
    """Gradients of attention and dot, then of g_length (C,) and of the attended vector's squared length (C,)."""
    u, dot_u = length(sum_per_caption(attention * h, QUERY)), sum_per_caption(attention * dot, QUERY)
    limit = u * g_length
    d_dot_u, d_limit = cosine_vjp(cosine(dot_u, u, g_length), limit, d_cosine)
    d_dot_u, d_limit_clamp = within_vjp(dot_u, limit, d_dot_u)
    d_limit += d_limit_clamp
    d_g_length, d_u2 = d_limit * u, length_vjp(u, d_limit * g_length)
    d_attention = caption_to_queries(d_dot_u, QUERY) * dot + 2 * caption_to_queries(d_u2, QUERY) * h
    return d_attention, caption_to_queries(d_dot_u, QUERY) * attention, d_g_length, d_u2


@triton.jit
def attend_mean_vjp(dot_sum, q, mean_c, n_context, mu, d_logit, d_dot, d_g_length, QUERY: tl.constexpr):
    """Gradients of dot_sum, q, mean_c (C,) and mu (C,) of :func:`attend_mean`; that of mu is still to be summed.

    Args:
        d_logit, d_dot: gradients of the logits of the softmax and of query · ĝ, 0 in the padding.
        d_g_length: (C,) gradient of g_length.
    """
    factor = unit_factor(mean_c)
    scale = caption_to_queries(factor / n_context, QUERY)
    g_length = mean_c * factor
    query_cosine = cosine(dot_sum * scale, q, caption_to_queries(g_length, QUERY))
    limit = q * caption_to_queries(g_length, QUERY)
    d_dot_cosine, d_limit = cosine_vjp(query_cosine, limit, mu * d_logit)
    d_dot, d_limit_clamp = within_vjp(dot_sum * scale, limit, d_dot + d_dot_cosine)
    d_limit += d_limit_clamp
    d_g_length += sum_per_caption(d_limit * q, QUERY)
    d_factor = sum_per_caption(d_dot * dot_sum, QUERY) / n_context + d_g_length * mean_c
    d_mean_c = d_g_length * factor + unit_factor_vjp(mean_c, d_factor)
    return (
        d_dot * scale,
        d_limit * caption_to_queries(g_length, QUERY),
        d_mean_c,
        sum_per_caption(d_logit * query_cosine, QUERY),
    )
