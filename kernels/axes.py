"""The axes of a tile: BR regions of one image × C captions × BL words, padded.

Regions are the first axis because one product instruction of a warpgroup takes 64 rows. Captions and words are its
columns, of which a tile may have as few as its registers allow.

QUERY selects the side of the queries: 1 for words (t2i), 2 for regions (i2t). The other side is the context. A value
per query is (C, BL) for words or (BR, C) for regions, a value per caption (C,).
"""

import triton
import triton.language as tl


@triton.jit
def sum_context(x, QUERY: tl.constexpr):
    """x (BR, C, BL) summed over the context: one value per query."""
    return tl.sum(x, 2 * QUERY - 2)


@triton.jit
def max_context(x, QUERY: tl.constexpr):
    """The largest x (BR, C, BL) of the context: one value per query."""
    return tl.max(x, 2 * QUERY - 2)


@triton.jit
def argmax_mask(x, context, QUERY: tl.constexpr):
    """Mask (BR, C, BL) of each query's largest x in the context, the first of equal ones; NaN is passed over."""
    axis: tl.constexpr = 2 * QUERY - 2
    index = tl.arange(0, x.shape[axis])
    index = index[:, None, None] if QUERY == 1 else index[None, None, :]
    largest = tl.max(tl.where(context, x, float("-inf")), axis)
    index = tl.where(context & (x == tl.expand_dims(largest, axis)), index, x.shape[axis])  # [BR, C, BL]
    return (index == tl.expand_dims(tl.min(index, axis), axis)) & (index < x.shape[axis])


@triton.jit
def along_context(v, QUERY: tl.constexpr):
    """A value per query with a context axis of 1, to be broadcast."""
    return tl.expand_dims(v, 2 * QUERY - 2)


@triton.jit
def sum_queries(x, QUERY: tl.constexpr):
    """x (BR, C, BL) summed over the queries: one value per context item of each caption."""
    return tl.sum(x, 4 - 2 * QUERY)


@triton.jit
def max_queries(x, QUERY: tl.constexpr):
    """The largest x (BR, C, BL) of the queries: one value per context item of each caption."""
    return tl.max(x, 4 - 2 * QUERY)


@triton.jit
def along_queries(v, QUERY: tl.constexpr):
    """A value per context item with a query axis of 1, to be broadcast."""
    return tl.expand_dims(v, 4 - 2 * QUERY)


@triton.jit
def sum_per_caption(v, QUERY: tl.constexpr):
    """A value per query, summed over the queries of each caption: (C,)."""
    return tl.sum(v, 2 - QUERY)


@triton.jit
def max_per_caption(v, QUERY: tl.constexpr):
    """The largest value of the queries of each caption: (C,)."""
    return tl.max(v, 2 - QUERY)


@triton.jit
def caption_to_queries(v, QUERY: tl.constexpr):
    """A value per caption (C,) with a query axis of 1, to be broadcast."""
    return tl.expand_dims(v, 2 - QUERY)
