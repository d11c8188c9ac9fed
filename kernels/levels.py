"""The cross-level attention: the queries of a tile (``axes.py``) attend to the mean of the other side.

Word–image for words (QUERY 1), object–sentence for regions (QUERY 2). The other side's numbers are (C,).
"""

import triton
import triton.language as tl
from cmsei_fast.kernels.axes import each, max_of, sum_context, sum_of
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
def attend_mean(total, q, mask, mean_length, count, mu, QUERY: tl.constexpr):
    """The attention of the queries to the other side's unit mean ĝ.

    Args:
        total: each query times the sum of the other side; q: the queries' lengths; mask: which exist.
        mean_length: (C,) |mean of the other side|; count (C,) how many it is the mean of.
        mu: temperature.

    Returns:
        query · ĝ, held to the product of the lengths; the attention, 0 in the padding; |ĝ| (C,), less than 1 only for a
        mean near 0.
    """
    factor = unit_factor(mean_length)
    gamma = mean_length * factor
    most = q * each(gamma, QUERY)
    dot = within(total * each(factor / count, QUERY), most)
    logits = tl.where(mask, mu * (dot / at_least_eps(most)), float("-inf"))
    e = tl.exp(logits - each(max_of(logits, QUERY), QUERY))
    return dot, e / each(sum_of(e, QUERY), QUERY), gamma


@triton.jit
def pad_context(x, BLOCK: tl.constexpr, QUERY: tl.constexpr):
    """The queries' values with a context axis of BLOCK places: the values in the first, 0 in the others.

    x (C, BL) to (BLOCK, C, BL), or (BR, C) to (BR, C, BLOCK); 16 places are the least that a product takes.
    """
    first = tl.arange(0, BLOCK) == 0
    if QUERY == 1:
        out = tl.where(first[:, None, None], x[None, :, :], 0.0)
    else:
        out = tl.where(first[None, None, :], x[:, :, None], 0.0)
    return out


@triton.jit
def attended_gram(
    attention, gram, BLOCK: tl.constexpr, QUERY: tl.constexpr, TURNED: tl.constexpr, PRECISION: tl.constexpr
):
    """attention · Gram of the queries themselves, on the tensor cores; BLOCK as :func:`pad_context` takes it."""
    return sum_context(gram_product(pad_context(attention, BLOCK, QUERY), gram, 3 - QUERY, TURNED, PRECISION), QUERY)


@triton.jit
def attended_cosine(dot, attention, h, gamma, QUERY: tl.constexpr):
    """(C,): cosine of the attended sum of the queries and ĝ; h is attention · Gram."""
    attended = length(sum_of(attention * h, QUERY))
    return cosine(sum_of(attention * dot, QUERY), attended, gamma)


@triton.jit
def attended_cosine_vjp(dot, attention, h, gamma, d, QUERY: tl.constexpr):
    """Gradients of attention and dot, of gamma (C,), and of |Σ attention query|² (C,)."""
    attended, product = length(sum_of(attention * h, QUERY)), sum_of(attention * dot, QUERY)
    most = attended * gamma
    d_product, d_most = cosine_vjp(cosine(product, attended, gamma), most, d)
    d_product, from_held = within_vjp(product, most, d_product)
    d_most += from_held
    d_gamma, d_quad = d_most * attended, length_vjp(attended, d_most * gamma)
    d_attention = each(d_product, QUERY) * dot + 2 * each(d_quad, QUERY) * h
    return d_attention, each(d_product, QUERY) * attention, d_gamma, d_quad


@triton.jit
def attend_mean_vjp(total, q, mean_length, count, mu, d_logit, d_dot, d_gamma, QUERY: tl.constexpr):
    """Gradients of total, q, mean_length (C,) and mu (C,), the last to be summed, of :func:`attend_mean`.

    Args:
        d_logit: gradient of what the softmax is taken of, 0 in the padding, as d_dot is; d_gamma (C,).
    """
    factor = unit_factor(mean_length)
    share = each(factor / count, QUERY)
    gamma = mean_length * factor
    c = cosine(total * share, q, each(gamma, QUERY))
    most = q * each(gamma, QUERY)
    from_cosine, d_most = cosine_vjp(c, most, mu * d_logit)
    d_dot, from_held = within_vjp(total * share, most, d_dot + from_cosine)
    d_most += from_held
    d_gamma += sum_of(d_most * q, QUERY)
    d_factor = sum_of(d_dot * total, QUERY) / count + d_gamma * mean_length
    d_mean = d_gamma * factor + unit_factor_vjp(mean_length, d_factor)
    return d_dot * share, d_most * each(gamma, QUERY), d_mean, sum_of(d_logit * c, QUERY)
