"""The pair score's epilogue: from a library's product of packed words and regions to scores, reading it once.

A program owns one image and walks over groups of C captions of about one length, so that the image's Gram matrix is
loaded once. One side asks a pass (``pair.py``); a second pass, where both do, reads the products from the cache
again. With 36 regions and 13 words a pair reads 13 · 36 · 4 = 1.9 KB of products from the second cache and, of what
i2t needs, 13² · 4 = 0.7 KB of the caption's Gram matrix; it computes 16 · 64 padded places: about 30 operations and
one exponential each a direction and step, and 2 · 16 · 64² = 131 kFLOP on the tensor cores (i2t: 2 · 64 · 16 · 64).
The product before it is 2 · 13 · 36 · D = 0.96 MFLOP at D 1024.
"""

import triton
import triton.language as tl
from cmsei_fast.kernels.pair import caption_blocks, image_block, pair_terms

_LOOSE = ["n_captions", "first_caption", "first_image", "word_row", "region_row", "s_stride", "out_stride"]
_LOOSE += ["word_gram", "region_gram"]


@triton.jit(do_not_specialize=_LOOSE)
def pair_scores(
    s,
    s_stride,
    out,
    out_stride,
    caption_order,
    image_order,
    first_caption,
    n_captions,
    first_image,
    word_row,
    region_row,
    word_gram,
    region_gram,
    word_offsets,
    word_lengths,
    word_means,
    word_grams,
    region_offsets,
    region_lengths,
    region_means,
    region_grams,
    scalars,
    C: tl.constexpr,
    BL: tl.constexpr,
    BR: tl.constexpr,
    PER: tl.constexpr,
    QUERY: tl.constexpr,
    NORM: tl.constexpr,
    AGGREGATE: tl.constexpr,
    STEPS: tl.constexpr,
    GATES: tl.constexpr,
    LEVEL: tl.constexpr,
    ALIGN: tl.constexpr,
    ADD: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Grid (images, groups of C captions / PER): scores of one image with up to PER · C captions.

    Args:
        s: (words, regions) inner products of a chunk, row stride s_stride; its first row and column are the packed rows
            word_row and region_row.
        out: (N, M) scores, row stride out_stride.
        caption_order, image_order: items by place; those of this launch begin at first_caption (n_captions of them) and
            first_image, their Gram matrices at word_gram and region_gram. Their words fit BL, their regions BR.
        word_*, region_*: the two sides, as ``pair.py`` says.
        ADD: add to what an earlier pass has left in out.
    """
    image = tl.load(image_order + first_image + tl.program_id(0))
    region = tl.load(region_offsets + image)
    size_v = tl.load(region_offsets + image + 1) - region
    r = tl.arange(0, BR)
    there = r < size_v
    if QUERY == 1 or LEVEL:
        gram_v = tl.load(region_grams + region_gram + tl.program_id(0) * (BR * BR) + image_block(BR))
    length_v = tl.load(region_lengths + region + r, mask=there, other=0.0)
    mean_v = tl.load(region_means + image)
    # 32-bit places within the chunk, counted from its first row and column
    column = (region - region_row + r).to(tl.int32)
    nth = tl.arange(0, BL)
    groups = tl.cdiv(n_captions, C)
    first = tl.program_id(1) * PER
    for group in range(first, tl.minimum(first + PER, groups)):
        place = group * C + tl.arange(0, C)
        # Places past the last caption repeat it, with no inner products, and are not stored.
        caption = tl.load(caption_order + first_caption + tl.minimum(place, n_captions - 1))
        word = tl.load(word_offsets + caption)
        size_w = tl.load(word_offsets + caption + 1) - word
        all_words = nth[None, :] < size_w[:, None]
        words = all_words & (place < n_captions)[:, None]
        row = (word - word_row).to(tl.int32)[:, None] + nth[None, :]
        a = tl.load(
            s + (row * s_stride)[None, :, :] + column[:, None, None],
            mask=words[None, :, :] & there[:, None, None],
            other=0.0,
        )  # [BR, C, BL]
        mean_w = tl.load(word_means + caption)
        if QUERY == 2 or LEVEL:
            places, mask = caption_blocks(n_captions - group * C, C, BL)
            gram_w = tl.load(word_grams + word_gram + group * C * (BL * BL) + places, mask=mask, other=0.0)
        n_w, zero = size_w.to(a.dtype), tl.zeros_like(mean_w)
        n_v = zero + size_v.to(a.dtype)
        if QUERY == 1:
            length_w = tl.load(word_lengths + word[:, None] + nth[None, :], mask=words, other=0.0)
            score = pair_terms(
                a,
                length_w,
                all_words,
                n_w,
                n_v,
                mean_w,
                zero + mean_v,
                there[:, None, None],
                gram_w if LEVEL else gram_v,  # its own is read for the level alone
                gram_v,
                scalars,
                QUERY,
                NORM,
                AGGREGATE,
                STEPS,
                GATES,
                LEVEL,
                ALIGN,
                PRECISION,
            )
        else:
            score = pair_terms(
                a,
                length_v[:, None] + zero[None, :],
                there[:, None] & (zero == zero)[None, :],
                n_v,
                n_w,
                zero + mean_v,
                mean_w,
                all_words[None, :, :],
                gram_v if LEVEL else gram_w,
                gram_w,
                scalars,
                QUERY,
                NORM,
                AGGREGATE,
                STEPS,
                GATES,
                LEVEL,
                ALIGN,
                PRECISION,
            )
        target = out + image * out_stride + caption
        if ADD:
            score += tl.load(target, mask=place < n_captions, other=0.0)
        tl.store(target, score, mask=place < n_captions)
