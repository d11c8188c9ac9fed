"""Scores of one image with captions padded to one length, a tile at a time: the epilogue of every forward kernel."""

import triton
import triton.language as tl
from cmsei_fast.kernels.pair import caption_gram_offsets, image_gram_offsets, pair_terms


@triton.jit
def score_image(
    products,
    products_stride,
    scores,
    scores_stride,
    image,
    caption_order,
    begin,
    end,
    word_starts,
    region_starts,
    word_origin,
    region_origin,
    caption_grams,
    image_gram,
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
    """Writes one pass's scores of the image with the captions caption_order[begin] … caption_order[end − 1].

    Args:
        products: (words, regions) inner products, row stride products_stride.
        scores: output (N, M), row stride scores_stride.
        image: index of the image.
        caption_order: captions in the order of launch.
        word_starts, word_origin: word_starts[caption] − word_origin is the row of products where a caption begins;
            word_starts is (captions,) int64.
        region_starts, region_origin: region_starts[image] − region_origin is the column where the image begins.
        caption_grams, image_gram: pointers to the Gram matrices of the caption at ``begin`` and of the image.
        word_*, region_*: the two sides, as ``pair.py`` describes them.
        ADD: whether to add to the scores of an earlier pass.
        PERSISTENT: whether the program computes the products too.
        TURNED: as ``products.gram_product`` takes it.
    """
    first_region = tl.load(region_offsets + image)
    n_regions = tl.load(region_offsets + image + 1) - first_region
    region_index = tl.arange(0, BR)
    region_mask = region_index < n_regions
    NEEDS_QUERY_GRAM: tl.constexpr = LEVEL or ATTEND == "negative_aware"
    if QUERY == 1 or NEEDS_QUERY_GRAM:
        gram_v = tl.load(image_gram + image_gram_offsets(BR))  # [BR, BR]
    length_v = tl.load(region_lengths + first_region + region_index, mask=region_mask, other=0.0)  # [BR]
    mean_v = tl.load(region_means + image)
    # Rows and columns are counted from the first of products, so that offsets fit 32 bits.
    column = (tl.load(region_starts + image) - region_origin + region_index).to(tl.int32)
    word_index = tl.arange(0, BL)
    # A persistent program needs its registers for the product over D: it loads nothing ahead and hoists no addresses.
    for tile_start in tl.range(begin, end, C, num_stages=1 if PERSISTENT else None, disable_licm=PERSISTENT):
        position = tile_start + tl.arange(0, C)  # [C]
        # Positions from ``end`` on repeat the last caption: their inner products are 0, their scores are not stored.
        caption = tl.load(caption_order + tl.minimum(position, end - 1))
        first_word = tl.load(word_offsets + caption)
        n_words = tl.load(word_offsets + caption + 1) - first_word
        word_mask = word_index[None, :] < n_words[:, None]  # [C, BL]
        load_mask = word_mask & (position < end)[:, None]
        row = (tl.load(word_starts + caption) - word_origin).to(tl.int32)[:, None] + word_index[None, :]
        a = tl.load(
            products + (row * products_stride)[None, :, :] + column[:, None, None],
            mask=load_mask[None, :, :] & region_mask[:, None, None],
            other=0.0,
        )  # [BR, C, BL]
        mean_w = tl.load(word_means + caption)
        if QUERY == 2 or NEEDS_QUERY_GRAM:  # gram_w is [C BL, C BL]
            gram_offsets, gram_mask = caption_gram_offsets(end - tile_start, C, BL)
            gram_w = tl.load(caption_grams + (tile_start - begin) * (BL * BL) + gram_offsets, mask=gram_mask, other=0.0)
        n_w, zeros = n_words.to(a.dtype), tl.zeros_like(mean_w)
        n_v = zeros + n_regions.to(a.dtype)  # [C]
        if QUERY == 1:
            length_w = tl.load(word_lengths + first_word[:, None] + word_index[None, :], mask=load_mask, other=0.0)
            score = pair_terms(
                a,
                length_w,
                word_mask,
                n_w,
                n_v,
                mean_w,
                zeros + mean_v,
                region_mask[:, None, None],
                gram_w if NEEDS_QUERY_GRAM else gram_v,  # else a placeholder
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
                length_v[:, None] + zeros[None, :],
                region_mask[:, None] & (zeros == zeros)[None, :],  # [BR, C]
                n_v,
                n_w,
                zeros + mean_v,
                mean_w,
                word_mask[None, :, :],
                gram_v if NEEDS_QUERY_GRAM else gram_w,
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
        score_ptrs = scores + image * scores_stride + caption
        if ADD:
            score += tl.load(score_ptrs, mask=position < end, other=0.0)
        tl.store(score_ptrs, score, mask=position < end)
