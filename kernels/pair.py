"""What one side asks of C captions and one image, from their inner products: a direction and the level it is guided by.

A kernel computes one side a pass: QUERY 1, words ask (t2i and word–image), or QUERY 2, regions ask (i2t and
object–sentence). Both in one pass would need more registers than there are.

Conventions of the kernels' arguments. A side is four arrays: ``offsets`` (items + 1,) int64, ``lengths`` (rows,) of
its rows, ``means`` (items,) lengths of the items' mean rows, and ``grams``, every item's inner products (B, B), 0 in
the padding, one behind another in the items' order of launch: those of a launch begin at ``*_gram``. Scalars stand as
``PairScorer.scalars()`` orders them: five weights, μ, then λ and λ_lse of t2i and of i2t, then gates, those of this
pass from place GATES on, where a negative-aware pass has its threshold.
"""

import triton
import triton.language as tl
from cmsei_fast.kernels.attend import direction
from cmsei_fast.kernels.aware import aware_direction
from cmsei_fast.kernels.axes import sum_context
from cmsei_fast.kernels.formulas import unit_factor, within
from cmsei_fast.kernels.levels import attend_mean, attended_cosine, attended_gram


@triton.jit
def image_block(BR: tl.constexpr):
    """Places (BR, BR) within an image's Gram matrix."""
    r = tl.arange(0, BR)
    return r[:, None] * BR + r[None, :]


@triton.jit
def caption_blocks(count, C: tl.constexpr, BL: tl.constexpr):
    """Places and mask (C BL, C BL) of captions' Gram matrices along the diagonal; the first ``count`` exist."""
    row = tl.arange(0, C * BL)
    places = row[:, None] * BL + (row % BL)[None, :]
    return places, (row[:, None] // BL == row[None, :] // BL) & (row[:, None] < count * BL)


@triton.jit
def load_gram(grams, count, C: tl.constexpr, BL: tl.constexpr, BR: tl.constexpr, QUERY: tl.constexpr):
    """Gram matrix of the context at the pointer: (BR, BR) of an image (QUERY 1), of captions by blocks (QUERY 2)."""
    if QUERY == 1:
        out = tl.load(grams + image_block(BR))
    else:
        places, mask = caption_blocks(count, C, BL)
        out = tl.load(grams + places, mask=mask, other=0.0)
    return out


@triton.jit
def pair_terms(
    a,
    q,
    mask,
    n_q,
    n_c,
    mean_q,
    mean_c,
    context,
    own_gram,
    context_gram,
    scalars,
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
    """Weighted sum (C,) of this pass's terms.

    Args:
        a: (BR, C, BL) inner products, 0 in the padding.
        q, mask: lengths of the queries and which there are.
        n_q, n_c, mean_q, mean_c: (C,) numbers of queries and of context items, and lengths of their means.
        context: mask of the context, broadcast to (BR, C, BL).
        own_gram, context_gram: of the queries and of the context, as ``gram_product`` takes them.
        scalars: pointer.
        NORM: "" leaves the direction out; LEVEL, ALIGN: whether the cross-level term and the alignment are wanted.
        TURNED: as ``products.gram_product`` takes it.
    """
    total = tl.zeros_like(n_q)
    guide = q  # read only where it is computed
    if LEVEL or AGGREGATE == "guided":
        mu = tl.load(scalars + 5)
        dot, guide, gamma = attend_mean(sum_context(a, QUERY), q, mask, mean_c, n_c, mu, QUERY)
        if LEVEL:
            h = attended_gram(guide, own_gram, a.shape[2 * QUERY - 2], QUERY, TURNED, PRECISION)
            total += tl.load(scalars + 4 - QUERY) * attended_cosine(dot, guide, h, gamma, QUERY)
    if ALIGN:
        product = tl.sum(tl.sum(a, 2), 0) / (n_q * n_c)
        f_q, f_c = unit_factor(mean_q), unit_factor(mean_c)
        most = (mean_q * f_q) * (mean_c * f_c)
        total += tl.load(scalars + 4) * within(product * f_q * f_c, most)
    if NORM != "":
        temperature, lse = tl.load(scalars + 4 + 2 * QUERY), tl.load(scalars + 5 + 2 * QUERY)
        if ATTEND == "negative_aware":
            score = aware_direction(
                a,
                q,
                context_gram,
                own_gram,
                guide,
                mask,
                n_q,
                context,
                temperature,
                lse,
                tl.load(scalars + GATES),
                NORM,
                AGGREGATE,
                QUERY,
                TURNED,
                PRECISION,
            )
        else:
            score = direction(
                a,
                q,
                context_gram,
                guide,
                mask,
                n_q,
                context,
                temperature,
                lse,
                scalars + GATES,
                NORM,
                ATTEND,
                RELEVANCE,
                AGGREGATE,
                STEPS,
                QUERY,
                TURNED,
                PRECISION,
            )
        total += tl.load(scalars + QUERY - 1) * score
    return total
