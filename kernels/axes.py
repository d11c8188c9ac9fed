"""The axes of a tile: BR regions of one image × C captions × BL words, padded.

Regions come first because 64 of them are the rows of one product instruction of a warpgroup, while captions and words
are its columns, of which a tile may have as few as its registers allow. QUERY says who asks: 1, words (t2i), or 2,
regions (i2t). What belongs to a query is (C, BL) or (BR, C), what belongs to a caption (C,).
"""

import triton
import triton.language as tl


@triton.jit
def sum_context(x, QUERY: tl.constexpr):
    """(BR, C, BL) summed over the context, for each query."""
    return tl.sum(x, 2 * QUERY - 2)


@triton.jit
def max_context(x, QUERY: tl.constexpr):
    """The largest over the context, for each query."""
    return tl.max(x, 2 * QUERY - 2)


@triton.jit
def first_largest(x, context, QUERY: tl.constexpr):
    """1 at each query's first largest x (BR, C, BL) of the context, else 0, NaN aside."""
    axis: tl.constexpr = 2 * QUERY - 2
    places = tl.arange(0, x.shape[axis])
    places = places[:, None, None] if QUERY == 1 else places[None, None, :]
    most = tl.max(tl.where(context, x, float("-inf")), axis)
    places = tl.where(context & (x == tl.expand_dims(most, axis)), places, x.shape[axis])
    return (places == tl.expand_dims(tl.min(places, axis), axis)) & (places < x.shape[axis])


@triton.jit
def along_context(v, QUERY: tl.constexpr):
    """What belongs to a query, broadcast along its context."""
    return tl.expand_dims(v, 2 * QUERY - 2)


@triton.jit
def sum_queries(x, QUERY: tl.constexpr):
    """(BR, C, BL) summed over the queries, for each context item of each caption."""
    return tl.sum(x, 4 - 2 * QUERY)


@triton.jit
def max_queries(x, QUERY: tl.constexpr):
    """The largest over the queries."""
    return tl.max(x, 4 - 2 * QUERY)


@triton.jit
def along_queries(v, QUERY: tl.constexpr):
    """What belongs to a context item, broadcast along the queries."""
    return tl.expand_dims(v, 4 - 2 * QUERY)


@triton.jit
def sum_of(v, QUERY: tl.constexpr):
    """What belongs to the queries, summed for each caption: (C,)."""
    return tl.sum(v, 2 - QUERY)


@triton.jit
def max_of(v, QUERY: tl.constexpr):
    """The largest of what belongs to the queries, for each caption: (C,)."""
    return tl.max(v, 2 - QUERY)


@triton.jit
def each(v, QUERY: tl.constexpr):
    """What belongs to a caption (C,), broadcast to its queries."""
    return tl.expand_dims(v, 2 - QUERY)
