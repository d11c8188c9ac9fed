"""One direction of the pair score, from a tile (BR, C, BL) of inner products (axes: ``axes.py``).

Names follow the mathematics. In the tile: inner products ``a``, attention ``p``, and ``h`` = p · Gram. Per query: its
length ``q``, the length ``u`` of its attended vector U, ``u2`` = |U|², ``dot`` = Q·U, and the relevance ``r``.
Every mask of the tile, ``context_mask`` for one, is broadcast to (BR, C, BL).
"""

import triton
import triton.language as tl
from cmsei_fast.kernels.axes import (
    along_context,
    along_queries,
    argmax_mask,
    caption_to_queries,
    max_context,
    max_per_caption,
    max_queries,
    sum_context,
    sum_per_caption,
    sum_queries,
)
from cmsei_fast.kernels.formulas import cosine, length, refine, within
from cmsei_fast.kernels.products import gram_product, unrounded_square


@triton.jit
def leaky(a):
    """LeakyReLU(0.1)."""
    return tl.where(a > 0, a, a * 0.1)


@triton.jit
def activated(a, NORM: tl.constexpr):
    """a (BR, C, BL) as it goes into the normalisation: through LeakyReLU for a clipped norm, else as it is."""
    if NORM == "clipped_l2norm" or NORM == "clipped_l1norm" or NORM == "clipped":
        a = leaky(a)
    return a


@triton.jit
def normalise(a, query_mask, NORM: tl.constexpr, QUERY: tl.constexpr):
    """Ã (BR, C, BL): a normalised along the query axis; 0 where a query is padding."""
    x = activated(a, NORM)
    if NORM == "softmax":
        largest = max_queries(tl.where(query_mask, a, float("-inf")), QUERY)
        e = tl.where(query_mask, tl.exp(a - along_queries(largest, QUERY)), 0.0)
        x = e / along_queries(sum_queries(e, QUERY), QUERY)
    elif NORM == "l2norm" or NORM == "clipped_l2norm":
        x = x / along_queries(tl.sqrt(sum_queries(x * x, QUERY)) + 1e-8, QUERY)
    elif NORM == "l1norm" or NORM == "clipped_l1norm":
        x = x / along_queries(sum_queries(tl.abs(x), QUERY) + 1e-8, QUERY)
    return x


@triton.jit
def focus(p, context_mask, ATTEND: tl.constexpr, QUERY: tl.constexpr):
    """Focal attention (BFAN, Liu et al. 2019): p (BR, C, BL) where it is above its mean, divided by its sum.

    The mean is plain ("focal_equal") or weighted by √p. Weights up to a relative 1e-5 below the mean are kept too, so
    that equal weights are all kept.
    """
    if ATTEND == "focal_equal":
        mean = sum_context(p, QUERY) / sum_context(tl.where(context_mask, 1.0, tl.zeros_like(p)), QUERY)
    else:
        root = tl.sqrt(p)
        mean = sum_context(p * root, QUERY) / sum_context(root, QUERY)
    p = tl.where(p <= (1 - 1e-5) * along_context(mean, QUERY), 0.0, p)  # the comparison is false for NaN, which stays
    return p / along_context(sum_context(p, QUERY), QUERY)


@triton.jit
def weights(a, temperature, query_mask, context_mask, NORM: tl.constexpr, ATTEND: tl.constexpr, QUERY: tl.constexpr):
    """Attention p (BR, C, BL), 0 in the padding of the context.

    Its gradient takes the choices of hard and focal attention as constant.
    """
    if ATTEND == "hard":
        p = tl.where(argmax_mask(a, context_mask, QUERY), 1.0, tl.zeros_like(a))
    else:
        logits = tl.where(context_mask, temperature * normalise(a, query_mask, NORM, QUERY), float("-inf"))
        e = tl.exp(logits - along_context(max_context(logits, QUERY), QUERY))
        p = e / along_context(sum_context(e, QUERY), QUERY)
        if ATTEND != "softmax":
            p = focus(p, context_mask, ATTEND, QUERY)
    return p


@triton.jit
def relevance(dot, q, u, step, RELEVANCE: tl.constexpr, STEPS: tl.constexpr):
    """Relevance of each query in a step (0, 1, …), from Q·U and the lengths.

    After a refinement, Q·U is limited to the product of the lengths, because every step amplifies the rounding of
    vectors that cancel out.
    """
    r = dot
    if RELEVANCE == "cosine":
        r = cosine(dot, q, u)
    elif STEPS > 1:
        r = tl.where(step > 0, within(dot, q * u), dot)
    return r


@triton.jit
def attend(
    a,
    gram,
    temperature,
    query_mask,
    context_mask,
    NORM: tl.constexpr,
    ATTEND: tl.constexpr,
    QUERY: tl.constexpr,
    TURNED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One step of attention.

    Returns:
        p and h = p · Gram (BR, C, BL). Per query: Q·U; |U|² from h, at least 0; |U|² with the rounding of h undone.
        The refinement takes the first |U|², whose rounding cancels that of h, the relevance the second.
    """
    p = weights(a, temperature, query_mask, context_mask, NORM, ATTEND, QUERY)  # [BR, C, BL], as h
    h = gram_product(p, gram, QUERY, TURNED, PRECISION)
    u2_unrounded = sum_context(unrounded_square(p, h, gram, QUERY, PRECISION), QUERY)
    u2 = sum_context(p * h, QUERY)
    return p, h, sum_context(p * a, QUERY), tl.where(u2 < 0, 0.0, u2), u2_unrounded


@triton.jit
def refined(a, q, h, dot, u2, r, gates, step, query_mask, context_mask, QUERY: tl.constexpr):
    """Inner products (BR, C, BL) and lengths of the refined queries, from those of this step and its attention."""
    gate_a, gate_b = tl.load(gates + 2 * step), tl.load(gates + 2 * step + 1)
    u = length(u2)
    _, _, _, _, alpha, beta, q = refine(gate_a, gate_b, r, q, u, within(dot, q * u))
    a = along_context(alpha, QUERY) * a + along_context(beta, QUERY) * h
    return tl.where(query_mask & context_mask, a, 0.0), q


@triton.jit
def aggregate(r, query_mask, n_queries, guide, lse, AGGREGATE: tl.constexpr, QUERY: tl.constexpr):
    """Aggregate (C,) of the queries' relevances r.

    Args:
        query_mask: which queries exist; n_queries (C,) is their number.
        guide: weight of each query, for the aggregate "guided".
    """
    if AGGREGATE == "max":
        # The maximum passes over NaN. Adding NaNs back keeps an overflow from looking like a score.
        out = max_per_caption(tl.where(query_mask, r, float("-inf")), QUERY) + sum_per_caption(
            tl.where(query_mask & (r != r), r, 0.0), QUERY
        )
    elif AGGREGATE == "lse":
        largest = max_per_caption(tl.where(query_mask, lse * r, float("-inf")), QUERY)
        e = tl.where(query_mask, tl.exp(lse * r - caption_to_queries(largest, QUERY)), 0.0)
        out = (largest + tl.log(sum_per_caption(e, QUERY))) / lse
    else:
        if AGGREGATE == "guided":
            r = guide * r
        out = sum_per_caption(tl.where(query_mask, r, 0.0), QUERY)
        if AGGREGATE == "mean":
            out = out / n_queries
    return out


@triton.jit
def direction(
    a,
    q,
    gram,
    guide,
    query_mask,
    n_queries,
    context_mask,
    temperature,
    lse,
    gates,
    NORM: tl.constexpr,
    ATTEND: tl.constexpr,
    RELEVANCE: tl.constexpr,
    AGGREGATE: tl.constexpr,
    STEPS: tl.constexpr,
    QUERY: tl.constexpr,
    TURNED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Score (C,) of one direction.

    Args:
        a: (BR, C, BL) inner products, 0 in the padding.
        q: lengths of the queries.
        gram: the context's Gram matrix, as :func:`gram_product` takes it.
        guide: weight of each query, for the aggregate "guided".
        query_mask: which queries exist; n_queries (C,) is their number.
        context_mask: which context items exist.
        temperature, lse: λ and λ_lse.
        gates: pointer to STEPS − 1 pairs (a, b).
        TURNED: as :func:`gram_product` takes it.
    """
    tile_query_mask = along_context(query_mask, QUERY)
    total = tl.zeros_like(n_queries)
    # All steps share one loop body. Unrolled, the compiler would take their products for a chain as in flash attention
    # and lay all warps along the rows, so that eight warps hold all 64 rows twice.
    for step in range(STEPS):
        _, h, dot, u2, u2_unrounded = attend(
            a, gram, temperature, tile_query_mask, context_mask, NORM, ATTEND, QUERY, TURNED, PRECISION
        )
        r = relevance(dot, q, length(u2_unrounded), step, RELEVANCE, STEPS)
        total += aggregate(r, query_mask, n_queries, guide, lse, AGGREGATE, QUERY)
        if STEPS > 1:  # after the last step too: with a branch on it the compiler attends twice, in two layouts
            a, q = refined(
                a, q, h, dot, u2, r, gates, tl.minimum(step, STEPS - 2), tile_query_mask, context_mask, QUERY
            )
    return total / STEPS
