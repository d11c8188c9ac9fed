"""The terms of one pass, from the inner products of one image and C captions.

A pass computes everything whose queries are on one side: words (QUERY 1: t2i and word–image) or regions (QUERY 2: i2t
and object–sentence). Both sides in one pass would need too many registers.

Conventions of the kernels' arguments:

- ``_v`` ends names of the images' side (regions V), ``_w`` of the captions' (words W), ``_q`` of the queries, ``_c`` of
  the context.
- A side is four arrays: ``offsets`` (items + 1,) int64, the first packed row of each item; ``lengths`` (rows,) of the
  rows; ``means`` (items,), the lengths of the items' mean rows; and ``grams``, the items' Gram matrices (B, B) one
  after the other, 0 in the padding, in the order in which items are launched.
- ``scalars`` are in the order of ``PairScorer.scalars()``: five weights, μ, then λ and λ_lse of t2i and of i2t, then
  the gates. So the weight of this pass's direction is at QUERY - 1, that of its cross-level term at 4 - QUERY, λ at
  4 + 2 QUERY and λ_lse behind it; alignment's is at 4, μ at 5. The gates of this pass begin at GATES; a negative-aware
  pass has its threshold there.
"""

import triton
import triton.language as tl
from cmsei_fast.kernels.attend import direction
from cmsei_fast.kernels.aware import aware_direction
from cmsei_fast.kernels.axes import sum_context
from cmsei_fast.kernels.formulas import unit_factor, within
from cmsei_fast.kernels.levels import attend_mean, attended_cosine, attended_gram


@triton.jit
def image_gram_offsets(BR: tl.constexpr):
    """Offsets (BR, BR) of the elements of an image's Gram matrix."""
    region_index = tl.arange(0, BR)
    return region_index[:, None] * BR + region_index[None, :]


@triton.jit
def caption_gram_offsets(captions_left, C: tl.constexpr, BL: tl.constexpr):
    """Offsets and mask (C BL, C BL) of the captions' Gram matrices, as blocks along the diagonal.

    Only the first ``captions_left`` of the tile's captions exist, or all of them if there are more.
    """
    row = tl.arange(0, C * BL)
    offsets = row[:, None] * BL + (row % BL)[None, :]
    return offsets, (row[:, None] // BL == row[None, :] // BL) & (row[:, None] < captions_left * BL)


@triton.jit
def load_gram(grams, captions_left, C: tl.constexpr, BL: tl.constexpr, BR: tl.constexpr, QUERY: tl.constexpr):
    """Gram matrix of the context: (BR, BR) of the image (QUERY 1) or block-diagonal (C BL, C BL) of captions (QUERY 2).

    Args:
        grams: pointer to that of the image, or of the tile's first caption.
        captions_left: as :func:`caption_gram_offsets` takes it.
    """
    if QUERY == 1:
        out = tl.load(grams + image_gram_offsets(BR))
    else:
        offsets, mask = caption_gram_offsets(captions_left, C, BL)
        out = tl.load(grams + offsets, mask=mask, other=0.0)
    return out


@triton.jit
def pair_terms(
    a,
    q,
    query_mask,
    n_queries,
    n_context,
    mean_q,
    mean_c,
    context_mask,
    query_gram,
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
        q: lengths of the queries; query_mask says which exist.
        n_queries, n_context: (C,) numbers of queries and of context items; mean_q, mean_c: (C,) lengths of their means.
        context_mask: which context items exist, broadcast to (BR, C, BL).
        query_gram, context_gram: Gram matrices of the queries and of the context, as ``products.gram_product`` takes
            them.
        scalars: pointer.
        NORM: "" leaves the direction out.
        LEVEL, ALIGN: whether the cross-level term and the alignment are part of the pass.
        TURNED: as ``products.gram_product`` takes it.
    """
    total = tl.zeros_like(n_queries)
    guide = q  # only a placeholder: nothing reads it unless it is computed below
    if LEVEL or AGGREGATE == "guided":
        mu = tl.load(scalars + 5)
        dot, guide, g_length = attend_mean(sum_context(a, QUERY), q, query_mask, mean_c, n_context, mu, QUERY)
        if LEVEL:
            h = attended_gram(guide, query_gram, a.shape[2 * QUERY - 2], QUERY, TURNED, PRECISION)
            total += tl.load(scalars + 4 - QUERY) * attended_cosine(dot, guide, h, g_length, QUERY)
    if ALIGN:
        mean_product = tl.sum(tl.sum(a, 2), 0) / (n_queries * n_context)  # [C]
        factor_q, factor_c = unit_factor(mean_q), unit_factor(mean_c)
        limit = (mean_q * factor_q) * (mean_c * factor_c)
        total += tl.load(scalars + 4) * within(mean_product * factor_q * factor_c, limit)
    if NORM != "":
        temperature, lse = tl.load(scalars + 4 + 2 * QUERY), tl.load(scalars + 5 + 2 * QUERY)
        if ATTEND == "negative_aware":
            score = aware_direction(
                a,
                q,
                context_gram,
                query_gram,
                guide,
                query_mask,
                n_queries,
                context_mask,
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
                query_mask,
                n_queries,
                context_mask,
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
