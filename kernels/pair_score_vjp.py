"""The pair score's gradients: one pass over a chunk, from its inner products and the gradients of its scores.

A program handles one image and several groups of captions, as in ``pair_score.py``. It sums the gradients of the image
in registers. Gradients of a caption are written separately for each image and summed afterwards in a fixed order, so
nothing needs atomics.

Counted for 36 regions and 13 words, a pair reads its inner products (1.9 KB), adds to their gradient dS (0.9 KB read
and written in bfloat16) and, if the caption's Gram matrix has a gradient, adds 1 KB to a partial sum. It computes three
to four times as much as the forward pass. The three library products before and after it take 0.96 MFLOP per pair each
at D = 1024.
"""

import triton
import triton.language as tl
from cmsei_fast.kernels.formulas import length_vjp
from cmsei_fast.kernels.pair import caption_gram_offsets, image_gram_offsets
from cmsei_fast.kernels.pair_vjp import pair_terms_vjp

_NOT_SPECIALIZED = [
    "n_captions",
    "first_caption",
    "first_image",
    "word_origin",
    "region_origin",
    "products_stride",
    "d_scores_stride",
]
_NOT_SPECIALIZED += [
    "caption_origin",
    "image_origin",
    "word_gram_start",
    "region_gram_start",
    "d_word_gram_start",
    "d_region_gram_start",
    "first_part",
    "first_program",
    "squares_stride_w",
    "means_stride_w",
    "grams_stride_w",
]
_NOT_SPECIALIZED += ["squares_stride_v", "means_stride_v", "grams_stride_v"]


@triton.jit
def product_offsets_and_masks(
    word_offsets, caption, caption_mask, word_origin, products_stride, column, region_mask, BL: tl.constexpr
):
    """Offsets of a tile's inner products from the first of the chunk.

    Args:
        word_offsets, word_origin, products_stride: as :func:`pair_gradients` takes them.
        caption, caption_mask: (C,) captions, and which of them exist.
        column, region_mask: (BR,) columns of the regions, and which of them exist.

    Returns:
        first word and number of words of each caption (C,); mask of the words (C, BL); offsets and mask of the inner
        products (BR, C, BL).
    """
    first_word = tl.load(word_offsets + caption)
    n_words = tl.load(word_offsets + caption + 1) - first_word
    word_index = tl.arange(0, BL)
    load_mask = (word_index[None, :] < n_words[:, None]) & caption_mask[:, None]
    row = (first_word - word_origin).to(tl.int32)[:, None] + word_index[None, :]
    offsets = (row * products_stride)[None, :, :] + column[:, None, None]
    return first_word, n_words, load_mask, offsets, load_mask[None, :, :] & region_mask[:, None, None]


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
def pair_gradients(
    products,
    products_stride,
    d_products,
    d_scores,
    d_scores_stride,
    caption_order,
    image_order,
    first_caption,
    n_captions,
    first_image,
    word_origin,
    region_origin,
    caption_origin,
    image_origin,
    word_gram_start,
    region_gram_start,
    d_word_gram_start,
    d_region_gram_start,
    first_part,
    first_program,
    word_offsets,
    word_lengths,
    word_means,
    word_grams,
    region_offsets,
    region_lengths,
    region_means,
    region_grams,
    scalars,
    d_squares_w,
    squares_stride_w,
    d_means_w,
    means_stride_w,
    d_grams_w,
    grams_stride_w,
    d_squares_v,
    squares_stride_v,
    d_means_v,
    means_stride_v,
    d_grams_v,
    grams_stride_v,
    d_scalars,
    C: tl.constexpr,
    BL: tl.constexpr,
    BR: tl.constexpr,
    GROUPS_PER_PROGRAM: tl.constexpr,
    SLOTS: tl.constexpr,
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
    """Gradients of one pass. Grid (images, groups of C captions / GROUPS_PER_PROGRAM).

    Outputs are added to, so they start at 0. Of the chunk's captions there is one partial sum for each of its images;
    of its images, one *part* for each program that handles an image.

    Args:
        products to region_origin, without d_products and d_scores: as ``pair_score.pair_scores`` takes them, and so are
            word_gram_start, region_gram_start, the two sides and the scalars.
        d_products: output, gradient of products with the same row stride, in any float dtype.
        d_scores: (N, M) gradient of the scores, row stride d_scores_stride.
        caption_origin, image_origin: the chunk's first caption and image.
        d_word_gram_start, d_region_gram_start: like word_gram_start and region_gram_start, counted from the chunk's
            first Gram matrix.
        first_part, first_program: this launch's first part, and its first row of d_scalars.
        d_squares_w, d_means_w, d_grams_w: outputs with a row for each image of the chunk and the row strides
            squares_stride_w, means_stride_w and grams_stride_w: gradients of the words' squared lengths, of the squared
            lengths of the captions' means and of the captions' Gram matrices.
        d_squares_v, d_means_v, d_grams_v: the same outputs for the regions, with a row for each part.
        d_scalars: output (programs, SLOTS).
    """
    image = tl.load(image_order + first_image + tl.program_id(0))
    first_region = tl.load(region_offsets + image)
    n_regions = tl.load(region_offsets + image + 1) - first_region
    region_index = tl.arange(0, BR)
    region_mask = region_index < n_regions
    dtype: tl.constexpr = products.dtype.element_ty
    gram_offset_v = region_gram_start + tl.program_id(0) * (BR * BR)
    image_length_v = tl.load(region_lengths + first_region + region_index, mask=region_mask, other=0.0)  # [BR]
    image_mean_v = tl.load(region_means + image)
    column = (first_region - region_origin + region_index).to(tl.int32)
    word_index = tl.arange(0, BL)
    d_gram_v = tl.zeros((BR, BR), dtype)
    d_length_v = tl.zeros((BR,), dtype)
    d_mean_v = tl.zeros((C,), dtype)
    d_scalars_sum = tl.zeros((SLOTS,), dtype)
    n_groups = tl.cdiv(n_captions, C)
    first_group = tl.program_id(1) * GROUPS_PER_PROGRAM
    for group in tl.range(first_group, tl.minimum(first_group + GROUPS_PER_PROGRAM, n_groups), disable_licm=True):
        position = group * C + tl.arange(0, C)
        # Positions from n_captions on repeat the last caption: their gradient is 0, and nothing of them is stored.
        caption = tl.load(caption_order + first_caption + tl.minimum(position, n_captions - 1))
        caption_mask = position < n_captions
        d_score = tl.load(d_scores + image * d_scores_stride + caption, mask=caption_mask, other=0.0).to(dtype)  # [C]
        # With the hardest-negative loss, most pairs have no gradient.
        if tl.sum((d_score != 0).to(tl.int32), 0) > 0:
            first_word, n_words, load_mask, product_offsets, product_mask = product_offsets_and_masks(
                word_offsets, caption, caption_mask, word_origin, products_stride, column, region_mask, BL
            )
            a = tl.load(products + product_offsets, mask=product_mask, other=0.0)  # [BR, C, BL]
            length_w = tl.load(word_lengths + first_word[:, None] + word_index[None, :], mask=load_mask, other=0.0)
            mean_w = tl.load(word_means + caption)
            gram_offset_w = word_gram_start + group * C * (BL * BL)
            captions_left = n_captions - group * C
            zeros = tl.zeros_like(mean_w)
            n_w, n_v, mean_v = n_words.to(dtype), zeros + n_regions.to(dtype), zeros + image_mean_v
            word_mask = word_index[None, :] < n_words[:, None]  # [C, BL]
            d_gram_w = tl.zeros((C * BL, C * BL), dtype)
            if QUERY == 1:
                d_a, d_length_w, tile_d_mean_w, tile_d_mean_v, d_gram_w, d_gram_v, d_scalars_sum = pair_terms_vjp(
                    a,
                    length_w,
                    word_mask,
                    n_w,
                    n_v,
                    mean_w,
                    mean_v,
                    region_mask[:, None, None],
                    word_grams + gram_offset_w,
                    region_grams + gram_offset_v,
                    captions_left,
                    scalars,
                    d_score,
                    d_gram_w,
                    d_gram_v,
                    d_scalars_sum,
                    QUERY,
                    NORM,
                    ATTEND,
                    RELEVANCE,
                    AGGREGATE,
                    STEPS,
                    GATES,
                    LEVEL,
                    ALIGN,
                    TURNED,
                    PRECISION,
                )
                square_ptrs = (
                    d_squares_w
                    + (image - image_origin) * squares_stride_w
                    + (first_word - word_origin)[:, None]
                    + word_index[None, :]
                )
                updated = tl.load(square_ptrs, mask=load_mask, other=0.0) + length_vjp(length_w, d_length_w)
                tl.store(square_ptrs, updated, mask=load_mask)
            else:
                length_v = image_length_v[:, None] + zeros[None, :]  # [BR, C]
                d_a, tile_d_length_v, tile_d_mean_v, tile_d_mean_w, d_gram_v, d_gram_w, d_scalars_sum = pair_terms_vjp(
                    a,
                    length_v,
                    region_mask[:, None] & (zeros == zeros)[None, :],
                    n_v,
                    n_w,
                    mean_v,
                    mean_w,
                    word_mask[None, :, :],
                    region_grams + gram_offset_v,
                    word_grams + gram_offset_w,
                    captions_left,
                    scalars,
                    d_score,
                    d_gram_v,
                    d_gram_w,
                    d_scalars_sum,
                    QUERY,
                    NORM,
                    ATTEND,
                    RELEVANCE,
                    AGGREGATE,
                    STEPS,
                    GATES,
                    LEVEL,
                    ALIGN,
                    TURNED,
                    PRECISION,
                )
                d_length_v += tl.sum(tile_d_length_v, 1)
            d_mean_v += tile_d_mean_v
            mean_ptrs = d_means_w + (image - image_origin) * means_stride_w + (caption - caption_origin)
            updated = tl.load(mean_ptrs, mask=caption_mask, other=0.0) + length_vjp(mean_w, tile_d_mean_w)
            tl.store(mean_ptrs, updated, mask=caption_mask)
            if (QUERY == 2 and NORM != "") or (QUERY == 1 and LEVEL):
                gram_ptrs = (
                    d_grams_w + (image - image_origin) * grams_stride_w + d_word_gram_start + group * C * (BL * BL)
                )
                gram_offsets, gram_mask = caption_gram_offsets(captions_left, C, BL)
                previous = tl.load(gram_ptrs + gram_offsets, mask=gram_mask, other=0.0)
                tl.store(gram_ptrs + gram_offsets, previous + d_gram_w, mask=gram_mask)
            # Offsets are computed again from the lengths, because keeping them would cost a register each.
            _, _, _, product_offsets, product_mask = product_offsets_and_masks(
                word_offsets, caption, caption_mask, word_origin, products_stride, column, region_mask, BL
            )
            d_products_ptrs = d_products + product_offsets
            tl.store(
                d_products_ptrs,
                (tl.load(d_products_ptrs, mask=product_mask, other=0.0) + d_a).to(d_products.dtype.element_ty),
                mask=product_mask,
            )
    part = first_part + tl.program_id(1)
    if (QUERY == 1 and NORM != "") or (QUERY == 2 and LEVEL):
        gram_ptrs = (
            d_grams_v
            + part * grams_stride_v
            + d_region_gram_start
            + tl.program_id(0) * (BR * BR)
            + image_gram_offsets(BR)
        )
        tl.store(gram_ptrs, tl.load(gram_ptrs) + d_gram_v)
    if QUERY == 2:
        square_ptrs = d_squares_v + part * squares_stride_v + first_region - region_origin + region_index
        updated = tl.load(square_ptrs, mask=region_mask, other=0.0) + length_vjp(image_length_v, d_length_v)
        tl.store(square_ptrs, updated, mask=region_mask)
    mean_ptrs = d_means_v + part * means_stride_v + image - image_origin + tl.arange(0, 1)
    tl.store(mean_ptrs, tl.load(mean_ptrs) + length_vjp(image_mean_v, tl.sum(tl.expand_dims(d_mean_v, 1), 0)))
    d_scalars_ptrs = d_scalars + (first_program + tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)) * SLOTS
    d_scalars_ptrs += tl.arange(0, SLOTS)
    tl.store(d_scalars_ptrs, tl.load(d_scalars_ptrs) + d_scalars_sum)
