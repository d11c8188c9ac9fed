"""Inner products within each item, and their gradient, for items of any length that a block holds.

Forward: rows are read once (2 bytes · D each in bfloat16) and B² numbers an item are written: bound by memory, 0.1 ms
for the 180 k regions of 5,000 images at 4 TB/s. Backward: the same plus one read and one write of the gradient.
"""

import triton
import triton.language as tl
from cmsei_fast.kernels.pair import image_block


@triton.jit(do_not_specialize=["first", "width", "start"])
def item_grams(
    rows,
    stride,
    width,
    order,
    first,
    offsets,
    lengths,
    means,
    grams,
    start,
    B: tl.constexpr,
    BD: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Grid (items): lengths (rows,), the length of the mean (items,) and Gram matrices of rows (rows, width).

    Args:
        rows: packed rows, row stride ``stride``; those of this launch's items begin at ``order[first]``.
        grams: (B, B) an item, 0 in the padding, in the order of launch; the first at ``start``.
        WIDE: dtype of the sums.
    """
    item = tl.load(order + first + tl.program_id(0))
    row = tl.load(offsets + item)
    size = tl.load(offsets + item + 1) - row
    i = tl.arange(0, B)
    exists = i < size
    total = tl.zeros((B, B), WIDE)
    squares = tl.zeros((B,), WIDE)
    mean = tl.zeros((), WIDE)
    for d in range(0, width, BD):
        column = d + tl.arange(0, BD)
        mask = exists[:, None] & (column < width)[None, :]
        x = tl.load(rows + (row + i)[:, None] * stride + column[None, :], mask=mask, other=0.0)  # [B, BD]
        total += tl.dot(x, tl.trans(x), input_precision=PRECISION, out_dtype=WIDE)
        wide = x.to(WIDE)
        squares += tl.sum(wide * wide, 1)
        sum_of_rows = tl.sum(wide, 0)
        mean += tl.sum(sum_of_rows * sum_of_rows, 0)
    n = size.to(WIDE)
    inside = exists[:, None] & exists[None, :]
    place = grams + start + tl.program_id(0).to(tl.int64) * (B * B) + image_block(B)
    tl.store(place, tl.where(inside, total, 0.0))
    tl.store(lengths + row + i, tl.sqrt(squares), mask=exists)
    tl.store(means + item, tl.sqrt(mean) / n)


@triton.jit(do_not_specialize=["first", "width", "start"])
def item_grams_vjp(
    rows,
    stride,
    width,
    order,
    first,
    offsets,
    start,
    d_grams,
    d_squares,
    d_means,
    d_rows,
    B: tl.constexpr,
    BD: tl.constexpr,
    HAS_GRAM: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Grid (items, width / BD): adds to d_rows (rows, width) what comes back through squares, means and Gram matrices.

    Args:
        d_grams: like the Gram matrices, of their gradients, the first at ``start``; read where HAS_GRAM.
        d_squares: (rows,) gradients of x·x.
        d_means: (items,) gradients of |mean|².
    """
    item = tl.load(order + first + tl.program_id(0))
    row = tl.load(offsets + item)
    size = tl.load(offsets + item + 1) - row
    i = tl.arange(0, B)
    column = tl.program_id(1) * BD + tl.arange(0, BD)
    exists = i < size
    mask = exists[:, None] & (column < width)[None, :]
    x = tl.load(rows + (row + i)[:, None] * stride + column[None, :], mask=mask, other=0.0).to(WIDE)  # [B, BD]
    place = d_rows + (row + i)[:, None] * width + column[None, :]
    out = tl.load(place, mask=mask, other=0.0)
    if HAS_GRAM:
        g = tl.load(d_grams + start + tl.program_id(0).to(tl.int64) * (B * B) + image_block(B))
        out += tl.dot(g + tl.trans(g), x, input_precision=PRECISION, out_dtype=WIDE)
    out += 2 * tl.load(d_squares + row + i, mask=exists, other=0.0)[:, None] * x
    n = size.to(WIDE)
    out += 2 * tl.load(d_means + item) / (n * n) * tl.sum(x, 0)[None, :]
    tl.store(place, out, mask=mask)
