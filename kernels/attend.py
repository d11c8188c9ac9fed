"""One direction of the pair score on a tile (BR, C, BL) of inner products, 0 in the padding (see ``axes.py``)."""

import triton
import triton.language as tl
from cmsei_fast.kernels.axes import (
    along_context,
    along_queries,
    each,
    first_largest,
    max_context,
    max_of,
    max_queries,
    sum_context,
    sum_of,
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
    """What is normalised: a, clipped first where the norm says so."""
    if NORM == "clipped_l2norm" or NORM == "clipped_l1norm" or NORM == "clipped":
        a = leaky(a)
    return a


@triton.jit
def normalise(a, queries, NORM: tl.constexpr, QUERY: tl.constexpr):
    """Ã (BR, C, BL) along the query axis; queries masks that axis. 0 where a query is padding."""
    x = activated(a, NORM)
    if NORM == "softmax":
        most = max_queries(tl.where(queries, a, float("-inf")), QUERY)
        e = tl.where(queries, tl.exp(a - along_queries(most, QUERY)), 0.0)
        x = e / along_queries(sum_queries(e, QUERY), QUERY)
    elif NORM == "l2norm" or NORM == "clipped_l2norm":
        x = x / along_queries(tl.sqrt(sum_queries(x * x, QUERY)) + 1e-8, QUERY)
    elif NORM == "l1norm" or NORM == "clipped_l1norm":
        x = x / along_queries(sum_queries(tl.abs(x), QUERY) + 1e-8, QUERY)
    return x


@triton.jit
def focus(p, context, ATTEND: tl.constexpr, QUERY: tl.constexpr):
    """Of p, 0 in the padding, what is above its mean, or above its mean weighted by √p, divided by its sum.

    BFAN, Liu et al. 2019. Within a relative 1e-5 below counts as above: weights that are all alike are all kept.
    """
    if ATTEND == "focal_equal":
        mean = sum_context(p, QUERY) / sum_context(tl.where(context, 1.0, tl.zeros_like(p)), QUERY)
    else:
        root = tl.sqrt(p)
        mean = sum_context(p * root, QUERY) / sum_context(root, QUERY)
    # NaN stays NaN: below is false of it.
    p = tl.where(p <= (1 - 1e-5) * along_context(mean, QUERY), 0.0, p)
    return p / along_context(sum_context(p, QUERY), QUERY)


@triton.jit
def weights(a, temperature, queries, context, NORM: tl.constexpr, ATTEND: tl.constexpr, QUERY: tl.constexpr):
    """Attention p (BR, C, BL), 0 in the padding of the context. What is kept or chosen is constant in its gradient."""
    if ATTEND == "hard":
        p = tl.where(first_largest(a, context, QUERY), 1.0, tl.zeros_like(a))
    else:
        logits = tl.where(context, temperature * normalise(a, queries, NORM, QUERY), float("-inf"))
        e = tl.exp(logits - along_context(max_context(logits, QUERY), QUERY))
        p = e / along_context(sum_context(e, QUERY), QUERY)
        if ATTEND != "softmax":
            p = focus(p, context, ATTEND, QUERY)
    return p


@triton.jit
def relevance(dot, q, u, k, RELEVANCE: tl.constexpr, STEPS: tl.constexpr):
    """Relevance of each query in step k from Q·U and the lengths.

    A refined query's Q·U is held to the lengths: each step multiplies the rounding of vectors that cancel out.
    """
    r = dot
    if RELEVANCE == "cosine":
        r = cosine(dot, q, u)
    elif STEPS > 1:
        r = tl.where(k > 0, within(dot, q * u), dot)
    return r


@triton.jit
def attend(
    a,
    gram,
    temperature,
    queries,
    context,
    NORM: tl.constexpr,
    ATTEND: tl.constexpr,
    QUERY: tl.constexpr,
    TURNED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Attention p and h = p · Gram (BR, C, BL); of each query Q·U, |U|² as h has it, not below 0, and more exactly.

    The former goes with h into the refinement, where a rounding of both cancels; the latter is for the relevance.
    """
    p = weights(a, temperature, queries, context, NORM, ATTEND, QUERY)
    h = gram_product(p, gram, QUERY, TURNED, PRECISION)
    square = sum_context(unrounded_square(p, h, gram, QUERY, PRECISION), QUERY)
    quad = sum_context(p * h, QUERY)
    return p, h, sum_context(p * a, QUERY), tl.where(quad < 0, 0.0, quad), square


@triton.jit
def refined(a, q, h, dot, quad, r, gates, k, queries, context, QUERY: tl.constexpr):
    """The inner products and lengths of the queries after step k, from what it attended to and its relevances r."""
    gate_a, gate_b = tl.load(gates + 2 * k), tl.load(gates + 2 * k + 1)
    u = length(quad)
    _, _, _, _, alpha, beta, q = refine(gate_a, gate_b, r, q, u, within(dot, q * u))
    a = along_context(alpha, QUERY) * a + along_context(beta, QUERY) * h
    return tl.where(queries & context, a, 0.0), q


@triton.jit
def aggregate(r, mask, count, guide, lse, AGGREGATE: tl.constexpr, QUERY: tl.constexpr):
    """(C,) from the queries' relevances r; mask says which exist, count (C,) how many, guide weighs them."""
    if AGGREGATE == "max":
        # A maximum passes over NaN: an overflow must not look like a score.
        out = max_of(tl.where(mask, r, float("-inf")), QUERY) + sum_of(tl.where(mask & (r != r), r, 0.0), QUERY)
    elif AGGREGATE == "lse":
        most = max_of(tl.where(mask, lse * r, float("-inf")), QUERY)
        e = tl.where(mask, tl.exp(lse * r - each(most, QUERY)), 0.0)
        out = (most + tl.log(sum_of(e, QUERY))) / lse
    else:
        if AGGREGATE == "guided":
            r = guide * r
        out = sum_of(tl.where(mask, r, 0.0), QUERY)
        if AGGREGATE == "mean":
            out = out / count
    return out


@triton.jit
def direction(
    a,
    q,
    gram,
    guide,
    mask,
    count,
    context,
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
        gram: as :func:`gram_product` takes it.
        guide: weights of the aggregate "guided".
        mask: queries that exist; count (C,) their number.
        context: mask of the context, broadcast to (BR, C, BL).
        temperature, lse: λ and λ_lse.
        gates: pointer to STEPS − 1 pairs (a, b).
        TURNED: as :func:`gram_product` takes it.
    """
    queries = along_context(mask, QUERY)
    total = tl.zeros_like(count)
    # One body for all steps: written out, the compiler takes their products for a chain, as in flash attention, and
    # lays all warps along the rows, so that eight of them hold all 64 rows twice.
    for k in range(STEPS):
        _, h, dot, quad, square = attend(a, gram, temperature, queries, context, NORM, ATTEND, QUERY, TURNED, PRECISION)
        r = relevance(dot, q, length(square), k, RELEVANCE, STEPS)
        total += aggregate(r, mask, count, guide, lse, AGGREGATE, QUERY)
        if STEPS > 1:  # after the last as well: a branch would have the compiler attend twice, in two layouts
            a, q = refined(a, q, h, dot, quad, r, gates, tl.minimum(k, STEPS - 2), queries, context, QUERY)
    return total / STEPS
