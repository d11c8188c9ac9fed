"""Gram matrices of the items, and their gradient. An item has at most B rows, one block.

Forward, the rows are read once (2 D bytes each in bfloat16) and B² numbers are written for each item. That is bound by
memory: 0.1 ms at 4 TB/s for the 180 k regions of 5,000 images. Backward also reads and writes the gradient of the rows.
"""

import triton
import triton.language as tl
from cmsei_fast.kernels.pair import image_gram_offsets


@triton.jit(do_not_specialize=["first_item", "width", "gram_start"])
def item_grams(
    rows,
    stride,
    width,
    order,
    first_item,
    offsets,
    lengths,
    means,
    grams,
    gram_start,
    B: tl.constexpr,
    BD: tl.constexpr,
    ACC_TYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Lengths of the rows, length of the mean row and Gram matrix of each item. Grid (items).

    Args:
        rows: packed rows (rows, width) of unit column stride, row stride ``stride``.
        order: items in the order of launch; this launch's begin at first_item.
        offsets: (items + 1,) first packed row of each item.
        lengths, means: outputs (rows,) and (items,).
        grams: output, (B, B) for each item in the order of launch, 0 in the padding; this launch's begin at gram_start.
        ACC_TYPE: dtype of the sums.
    """
    item = tl.load(order + first_item + tl.program_id(0))
    start = tl.load(offsets + item)
    n_rows = tl.load(offsets + item + 1) - start
    row = tl.arange(0, B)
    row_mask = row < n_rows
    gram = tl.zeros((B, B), ACC_TYPE)
    squares = tl.zeros((B,), ACC_TYPE)
    sum_square = tl.zeros((), ACC_TYPE)
    for column_start in range(0, width, BD):
        column = column_start + tl.arange(0, BD)
        mask = row_mask[:, None] & (column < width)[None, :]
        x = tl.load(rows + (start + row)[:, None] * stride + column[None, :], mask=mask, other=0.0)  # [B, BD]
        gram += tl.dot(x, tl.trans(x), input_precision=PRECISION, out_dtype=ACC_TYPE)
        x_wide = x.to(ACC_TYPE)
        squares += tl.sum(x_wide * x_wide, 1)
        sum_of_rows = tl.sum(x_wide, 0)  # [BD]
        sum_square += tl.sum(sum_of_rows * sum_of_rows, 0)
    count = n_rows.to(ACC_TYPE)
    gram_mask = row_mask[:, None] & row_mask[None, :]
    gram_ptrs = grams + gram_start + tl.program_id(0).to(tl.int64) * (B * B) + image_gram_offsets(B)
    tl.store(gram_ptrs, tl.where(gram_mask, gram, 0.0))
    tl.store(lengths + start + row, tl.sqrt(squares), mask=row_mask)
    tl.store(means + item, tl.sqrt(sum_square) / count)


@triton.jit(do_not_specialize=["first_item", "width", "gram_start"])
def item_grams_vjp(
    rows,
    stride,
    width,
    order,
    first_item,
    offsets,
    gram_start,
    d_grams,
    d_squares,
    d_means,
    d_rows,
    B: tl.constexpr,
    BD: tl.constexpr,
    HAS_GRAM: tl.constexpr,
    ACC_TYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradient of :func:`item_grams`, added to d_rows (rows, width). Grid (items, width / BD).

    Args:
        d_grams: gradients of the Gram matrices, laid out like them; read if HAS_GRAM.
        d_squares: (rows,) gradients of the squared lengths.
        d_means: (items,) gradients of the squared lengths of the mean rows.
    """
    item = tl.load(order + first_item + tl.program_id(0))
    start = tl.load(offsets + item)
    n_rows = tl.load(offsets + item + 1) - start
    row = tl.arange(0, B)
    column = tl.program_id(1) * BD + tl.arange(0, BD)
    row_mask = row < n_rows
    mask = row_mask[:, None] & (column < width)[None, :]
    x = tl.load(rows + (start + row)[:, None] * stride + column[None, :], mask=mask, other=0.0).to(ACC_TYPE)  # [B, BD]
    d_rows_ptrs = d_rows + (start + row)[:, None] * width + column[None, :]
    d_x = tl.load(d_rows_ptrs, mask=mask, other=0.0)
    if HAS_GRAM:
        d_gram = tl.load(d_grams + gram_start + tl.program_id(0).to(tl.int64) * (B * B) + image_gram_offsets(B))
        d_x += tl.dot(d_gram + tl.trans(d_gram), x, input_precision=PRECISION, out_dtype=ACC_TYPE)
    d_x += 2 * tl.load(d_squares + start + row, mask=row_mask, other=0.0)[:, None] * x
    count = n_rows.to(ACC_TYPE)
    d_x += 2 * tl.load(d_means + item) / (count * count) * tl.sum(x, 0)[None, :]
    tl.store(d_rows_ptrs, d_x, mask=mask)
