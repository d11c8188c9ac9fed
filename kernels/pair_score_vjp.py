"""The pair score's gradients: from a chunk's inner products and the scores' gradients to those of the inner products.

A program owns one image and walks over groups of captions, as in ``pair_score.py``. What belongs to the image is
summed in registers; what belongs to a caption is written for each image and summed afterwards, in a fixed order:
nothing is added by atomics. A pair (36 regions, 13 words) reads its inner products (1.9 KB), adds its gradient to dS
(0.9 KB read and written in bfloat16) and, where the caption's Gram matrix counts, 1 KB to its partial sum. It
computes three to four times what the forward pass does. Around it stand three products of 0.96 MFLOP a pair at D
1024.
"""

import triton
import triton.language as tl
from cmsei_fast.kernels.formulas import length_vjp
from cmsei_fast.kernels.pair import caption_blocks, image_block
from cmsei_fast.kernels.pair_vjp import pair_terms_vjp

_NOT_SPECIALIZED = [
    "n_captions",
    "first_caption",
    "first_image",
    "word_row",
    "region_row",
    "s_stride",
    "d_scores_stride",
]
_NOT_SPECIALIZED += [
    "item_w",
    "item_v",
    "word_gram",
    "region_gram",
    "d_word_gram",
    "d_region_gram",
    "split",
    "program",
    "rows_w",
    "items_w",
    "grams_w",
]
_NOT_SPECIALIZED += ["rows_v", "items_v", "grams_v"]


@triton.jit
def tile_places(word_offsets, caption, exists, word_row, s_stride, column, there, BL: tl.constexpr):
    """Where a tile's inner products lie.

    Args:
        caption, exists: (C,) captions and which count; column, there: (BR,) columns of regions and which exist.
        word_offsets, word_row, s_stride: as ``pair_gradients`` takes them.

    Returns:
        the captions' first words and numbers of words (C,), which words exist (C, BL), then places and mask
        (BR, C, BL).
    """
    word = tl.load(word_offsets + caption)
    size = tl.load(word_offsets + caption + 1) - word
    nth = tl.arange(0, BL)
    words = (nth[None, :] < size[:, None]) & exists[:, None]
    row = (word - word_row).to(tl.int32)[:, None] + nth[None, :]
    places = (row * s_stride)[None, :, :] + column[:, None, None]
    return word, size, words, places, words[None, :, :] & there[:, None, None]


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
def pair_gradients(
    s,
    s_stride,
    ds,
    d_scores,
    d_scores_stride,
    caption_order,
    image_order,
    first_caption,
    n_captions,
    first_image,
    word_row,
    region_row,
    item_w,
    item_v,
    word_gram,
    region_gram,
    d_word_gram,
    d_region_gram,
    split,
    program,
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
    rows_w,
    d_means_w,
    items_w,
    d_grams_w,
    grams_w,
    d_squares_v,
    rows_v,
    d_means_v,
    items_v,
    d_grams_v,
    grams_v,
    d_scalars,
    C: tl.constexpr,
    BL: tl.constexpr,
    BR: tl.constexpr,
    PER: tl.constexpr,
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
    """Grid (images, groups of C captions / PER); all outputs are added to, so they start at 0.

    Args:
        s, caption_order … region_row, the sides, scalars: as ``pair_score.pair_scores`` takes them.
        ds: like s, with the same row stride, any float dtype.
        d_scores: (N, M), row stride d_scores_stride.
        item_w, item_v: the chunk's first items.
        d_word_gram, d_region_gram: like word_gram and region_gram, within the chunk.
        d_squares_w (images, rows_w), d_means_w (images, items_w), d_grams_w (images, grams_w): of the chunk's words,
            for each of its images; gradients of x·x, of |mean|² and of the Gram matrices.
        d_squares_v (splits, rows_v), …: of the chunk's regions, for each split; this launch's first is ``split``.
        d_scalars: (programs, SLOTS); this launch's first row is ``program``.
    """
    image = tl.load(image_order + first_image + tl.program_id(0))
    region = tl.load(region_offsets + image)
    size_v = tl.load(region_offsets + image + 1) - region
    r = tl.arange(0, BR)
    there = r < size_v
    wide: tl.constexpr = s.dtype.element_ty
    gram_v = region_gram + tl.program_id(0) * (BR * BR)
    one_length_v = tl.load(region_lengths + region + r, mask=there, other=0.0)
    one_mean_v = tl.load(region_means + image)
    column = (region - region_row + r).to(tl.int32)
    nth = tl.arange(0, BL)
    d_gram_v = tl.zeros((BR, BR), wide)
    d_length_v = tl.zeros((BR,), wide)
    d_mean_v = tl.zeros((C,), wide)
    d_numbers = tl.zeros((SLOTS,), wide)
    groups = tl.cdiv(n_captions, C)
    first = tl.program_id(1) * PER
    for group in tl.range(first, tl.minimum(first + PER, groups), disable_licm=True):
        place = group * C + tl.arange(0, C)
        # Places past the last caption repeat it, with no gradient and nothing stored.
        caption = tl.load(caption_order + first_caption + tl.minimum(place, n_captions - 1))
        exists = place < n_captions
        d = tl.load(d_scores + image * d_scores_stride + caption, mask=exists, other=0.0).to(wide)
        # The hardest-negative loss leaves most pairs without a gradient.
        if tl.sum((d != 0).to(tl.int32), 0) > 0:
            word, size_w, words, places, inside = tile_places(
                word_offsets, caption, exists, word_row, s_stride, column, there, BL
            )
            a = tl.load(s + places, mask=inside, other=0.0)  # [BR, C, BL]
            length_w = tl.load(word_lengths + word[:, None] + nth[None, :], mask=words, other=0.0)
            mean_w = tl.load(word_means + caption)
            gram_w = word_gram + group * C * (BL * BL)
            captions = n_captions - group * C
            zero = tl.zeros_like(mean_w)
            n_w, n_v, mean_v = size_w.to(wide), zero + size_v.to(wide), zero + one_mean_v
            all_words = nth[None, :] < size_w[:, None]
            d_gram_w = tl.zeros((C * BL, C * BL), wide)
            if QUERY == 1:
                d_a, d_length_w, mean_from_w, mean_from_v, d_gram_w, d_gram_v, d_numbers = pair_terms_vjp(
                    a,
                    length_w,
                    all_words,
                    n_w,
                    n_v,
                    mean_w,
                    mean_v,
                    there[:, None, None],
                    word_grams + gram_w,
                    region_grams + gram_v,
                    captions,
                    scalars,
                    d,
                    d_gram_w,
                    d_gram_v,
                    d_numbers,
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
                squares = d_squares_w + (image - item_v) * rows_w + (word - word_row)[:, None] + nth[None, :]
                more = tl.load(squares, mask=words, other=0.0) + length_vjp(length_w, d_length_w)
                tl.store(squares, more, mask=words)
            else:
                length_v = one_length_v[:, None] + zero[None, :]
                d_a, d_lengths_v, mean_from_v, mean_from_w, d_gram_v, d_gram_w, d_numbers = pair_terms_vjp(
                    a,
                    length_v,
                    there[:, None] & (zero == zero)[None, :],
                    n_v,
                    n_w,
                    mean_v,
                    mean_w,
                    all_words[None, :, :],
                    region_grams + gram_v,
                    word_grams + gram_w,
                    captions,
                    scalars,
                    d,
                    d_gram_v,
                    d_gram_w,
                    d_numbers,
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
                d_length_v += tl.sum(d_lengths_v, 1)
            d_mean_v += mean_from_v
            means = d_means_w + (image - item_v) * items_w + (caption - item_w)
            more = tl.load(means, mask=exists, other=0.0) + length_vjp(mean_w, mean_from_w)
            tl.store(means, more, mask=exists)
            if (QUERY == 2 and NORM != "") or (QUERY == 1 and LEVEL):
                grams = d_grams_w + (image - item_v) * grams_w + d_word_gram + group * C * (BL * BL)
                gram_places, kept = caption_blocks(captions, C, BL)
                old = tl.load(grams + gram_places, mask=kept, other=0.0)
                tl.store(grams + gram_places, old + d_gram_w, mask=kept)
            # Computed again from what is loaded again: kept since the first time, places take a register each.
            _, _, _, places, inside = tile_places(word_offsets, caption, exists, word_row, s_stride, column, there, BL)
            target = ds + places
            tl.store(target, (tl.load(target, mask=inside, other=0.0) + d_a).to(ds.dtype.element_ty), mask=inside)
    own = split + tl.program_id(1)
    if (QUERY == 1 and NORM != "") or (QUERY == 2 and LEVEL):
        grams = d_grams_v + own * grams_v + d_region_gram + tl.program_id(0) * (BR * BR) + image_block(BR)
        tl.store(grams, tl.load(grams) + d_gram_v)
    if QUERY == 2:
        squares = d_squares_v + own * rows_v + region - region_row + r
        more = tl.load(squares, mask=there, other=0.0) + length_vjp(one_length_v, d_length_v)
        tl.store(squares, more, mask=there)
    means = d_means_v + own * items_v + image - item_v + tl.arange(0, 1)
    tl.store(means, tl.load(means) + length_vjp(one_mean_v, tl.sum(tl.expand_dims(d_mean_v, 1), 0)))
    numbers = d_scalars + (program + tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)) * SLOTS
    numbers += tl.arange(0, SLOTS)
    tl.store(numbers, tl.load(numbers) + d_numbers)
