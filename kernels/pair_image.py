"""One image against captions of about one length, a tile at a time: what every forward kernel does with products."""

import triton
import triton.language as tl
from cmsei_fast.kernels.pair import caption_blocks, image_block, pair_terms


@triton.jit
def score_image(
    s,
    s_stride,
    out,
    out_stride,
    image,
    caption_order,
    first,
    last,
    word_starts,
    region_starts,
    word_row,
    region_row,
    own_word_grams,
    own_region_gram,
    word_offsets,
    word_lengths,
    word_means,
    region_offsets,
    region_lengths,
    region_means,
    scalars,
    C: tl.constexpr,
    BL: tl.constexpr,
    BR: tl.constexpr,
    QUERY: tl.constexpr,
    NORM: tl.constexpr,
    ATTEND: tl.constexpr,
    RELEVANCE: tl.constexpr,
    AGGREGATE: tl.constexpr,
    STEPS: tl.constexpr,
    GATES: tl.constexpr,
    LEVEL: tl.constexpr,
    ALIGN: tl.constexpr,
    ADD: tl.constexpr,
    PERSISTENT: tl.constexpr,
    TURNED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One pass over the image's pairs with the captions at the places first … last − 1, into out.

    Args:
        s: (words, regions) inner products, row stride s_stride.
        out: (N, M) scores, row stride out_stride.
        image: which; caption_order: captions by place.
        word_starts, region_starts: (items,) int64; an item's first row (column) in s is word_starts[item] − word_row.
        own_word_grams, own_region_gram: pointers to the Gram matrices, of the caption at ``first`` and of the image.
        word_*, region_*: of the two sides, as ``pair.py`` says.
        ADD: add to what an earlier pass has left in out.
        PERSISTENT: whether the program computes products too.
        TURNED: as ``products.gram_product`` takes it.
    """
    region = tl.load(region_offsets + image)
    size_v = tl.load(region_offsets + image + 1) - region
    r = tl.arange(0, BR)
    there = r < size_v
    OWN: tl.constexpr = LEVEL or ATTEND == "negative_aware"  # the queries' own Gram matrix is asked for
    if QUERY == 1 or OWN:
        gram_v = tl.load(own_region_gram + image_block(BR))
    length_v = tl.load(region_lengths + region + r, mask=there, other=0.0)
    mean_v = tl.load(region_means + image)
    # 32-bit places within s, counted from its first row and column
    column = (tl.load(region_starts + image) - region_row + r).to(tl.int32)
    nth = tl.arange(0, BL)
    # Beside the registers of a product over D, neither what is loaded ahead nor moved addresses have a place.
    for at in tl.range(first, last, C, num_stages=1 if PERSISTENT else None, disable_licm=PERSISTENT):
        place = at + tl.arange(0, C)
        # Places past the last caption repeat it, with no inner products, and are not stored.
        caption = tl.load(caption_order + tl.minimum(place, last - 1))
        word = tl.load(word_offsets + caption)
        size_w = tl.load(word_offsets + caption + 1) - word
        all_words = nth[None, :] < size_w[:, None]
        words = all_words & (place < last)[:, None]
        row = (tl.load(word_starts + caption) - word_row).to(tl.int32)[:, None] + nth[None, :]
        a = tl.load(
            s + (row * s_stride)[None, :, :] + column[:, None, None],
            mask=words[None, :, :] & there[:, None, None],
            other=0.0,
        )  # [BR, C, BL]
        mean_w = tl.load(word_means + caption)
        if QUERY == 2 or OWN:
            places, mask = caption_blocks(last - at, C, BL)
            gram_w = tl.load(own_word_grams + (at - first) * (BL * BL) + places, mask=mask, other=0.0)
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
                gram_w if OWN else gram_v,  # never read
                gram_v,
                scalars,
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
                gram_v if OWN else gram_w,
                gram_w,
                scalars,
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
        target = out + image * out_stride + caption
        if ADD:
            score += tl.load(target, mask=place < last, other=0.0)
        tl.store(target, score, mask=place < last)
