"""The pair score in one kernel: persistent programs, each a tile's product over D and then its pairs' scores.

A tile is TM packed words × TN packed regions of whole items, so that no pair is cut: of 128 × 256, seven images of 36
regions take 252 columns, and nine captions of 13 words 117 rows. Its inner products go to the program's own place in
global memory and come back as ``pair_image.score_image`` wants them: a place is written again for every tile, so that
all of them (132 programs · 128 KB = 17 MB) stay in the second cache.

Counted at D 1024 in bfloat16, for a tile of 128 × 256: the product reads 384 · 2 KB = 0.79 MB of features, mostly from
the second cache, and computes 2 · 128 · 256 · D = 67 MFLOP, of which 90 % belong to a pair; it writes and reads 128 KB.
Then 63 pairs of 468 inner products, with the operations of ``pair_score.py``, and 16 KB of an image's Gram matrix for
every image. The product of a library writes and reads the same 1.9 KB a pair, in chunks that only mostly stay in the
cache, and multiplies no padding.
"""

import triton
import triton.language as tl
from cmsei_fast.kernels.pair_image import score_image


@triton.jit
def tile_product(
    words,
    word_stride,
    word_rows,
    regions,
    region_stride,
    region_rows,
    width,
    TM: tl.constexpr,
    TN: tl.constexpr,
    BK: tl.constexpr,
    EVEN: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """(TM, TN) inner products of the rows whose places stand at word_rows and region_rows."""
    d = tl.arange(0, BK)
    # None of them is negative: products of two numbers without a sign keep no upper half of the stride.
    row_w, row_v = tl.load(word_rows + tl.arange(0, TM)), tl.load(region_rows + tl.arange(0, TN))
    place_w = row_w.to(tl.uint32).to(tl.uint64) * tl.cast(tl.cast(word_stride, tl.uint32), tl.uint64)
    place_v = row_v.to(tl.uint32).to(tl.uint64) * tl.cast(tl.cast(region_stride, tl.uint32), tl.uint64)
    w = words + place_w[:, None] + d[None, :]
    v = regions + place_v[:, None] + d[None, :]
    total = tl.zeros((TM, TN), WIDE)
    for start in range(0, width, BK):
        if EVEN:
            x, y = tl.load(w + start), tl.load(v + start)
        else:
            there = (start + d < width)[None, :]
            x, y = tl.load(w + start, mask=there, other=0.0), tl.load(v + start, mask=there, other=0.0)
        total = tl.dot(x, tl.trans(y), total, input_precision=PRECISION, out_dtype=WIDE)
    return total


@triton.jit
def score_tile(
    s,
    out,
    out_stride,
    caption_order,
    image_order,
    first_caption,
    last_caption,
    first_image,
    last_image,
    word_starts,
    region_starts,
    own_word_grams,
    own_region_grams,
    word_offsets,
    word_lengths,
    word_means,
    region_offsets,
    region_lengths,
    region_means,
    scalars,
    TN: tl.constexpr,
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
    TURNED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One pass over the tile's pairs; the tile's captions and images are those at the places first … last − 1."""
    for at in tl.range(first_image, last_image, disable_licm=True):
        score_image(
            s,
            TN,
            out,
            out_stride,
            tl.load(image_order + at),
            caption_order,
            first_caption,
            last_caption,
            word_starts,
            region_starts,
            0,
            0,
            own_word_grams,
            own_region_grams + (at - first_image) * (BR * BR),
            word_offsets,
            word_lengths,
            word_means,
            region_offsets,
            region_lengths,
            region_means,
            scalars,
            C,
            BL,
            BR,
            QUERY,
            NORM,
            ATTEND,
            RELEVANCE,
            AGGREGATE,
            STEPS,
            GATES,
            LEVEL,
            ALIGN,
            ADD,
            True,
            TURNED,
            PRECISION,
        )


_NOT_SPECIALIZED = [
    "n_tiles",
    "n_band",
    "n_image_tiles",
    "first_caption",
    "first_image",
    "word_gram",
    "region_gram",
    "out_stride",
]


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
def fused_scores(
    words,
    word_stride,
    regions,
    region_stride,
    width,
    scratch,
    out,
    out_stride,
    caption_order,
    image_order,
    caption_bounds,
    image_bounds,
    n_image_tiles,
    n_band,
    n_tiles,
    word_rows,
    region_rows,
    word_starts,
    region_starts,
    first_caption,
    first_image,
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
    TM: tl.constexpr,
    TN: tl.constexpr,
    BK: tl.constexpr,
    EVEN: tl.constexpr,
    BAND: tl.constexpr,
    HALVES: tl.constexpr,
    C: tl.constexpr,
    BL: tl.constexpr,
    BR: tl.constexpr,
    WORDS: tl.constexpr,
    NORM_W: tl.constexpr,
    ATTEND_W: tl.constexpr,
    RELEVANCE_W: tl.constexpr,
    AGGREGATE_W: tl.constexpr,
    STEPS_W: tl.constexpr,
    GATES_W: tl.constexpr,
    LEVEL_W: tl.constexpr,
    REGIONS: tl.constexpr,
    NORM_R: tl.constexpr,
    ATTEND_R: tl.constexpr,
    RELEVANCE_R: tl.constexpr,
    AGGREGATE_R: tl.constexpr,
    STEPS_R: tl.constexpr,
    GATES_R: tl.constexpr,
    LEVEL_R: tl.constexpr,
    ALIGN: tl.constexpr,
    PRODUCT: tl.constexpr,
    TURNED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Grid (programs), any number: each takes every so many-th tile. All options of both passes are in one launch.

    Args:
        words, regions: packed rows (·, width) of unit column stride.
        scratch: (programs, TM, TN) in the accumulator's dtype.
        caption_order, image_order: items by place; those of this launch begin at first_caption and first_image.
        caption_bounds: (tiles of captions + 1,) int64, the place where each begins; likewise image_bounds.
        n_image_tiles, n_band, n_tiles: tiles of images, tiles of a whole band, all tiles.
        word_rows: (tiles of captions, TM) int64, the packed rows of each; those past its last word are any, because
            nothing reads their products. region_rows (tiles of images, TN) likewise.
        word_starts, region_starts: (items,) int64, each item's first row (column) within its tile.
        word_gram, region_gram, word_*, region_*, scalars: as ``pair_score.pair_scores`` takes them.
        BAND: tiles of images that are met by one tile of captions before the next: features stay in the cache.
        HALVES: whether a tile's products are stored in two halves, as tensor memory gives them.
        WORDS, REGIONS: who asks; the options of each with the ending _W and _R.
        PRODUCT: how the features are multiplied, PRECISION: the small products.
    """
    s = scratch + tl.program_id(0).to(tl.int64) * (TM * TN)
    i, j = tl.arange(0, TM), tl.arange(0, TN)
    for tile in tl.range(tl.program_id(0), n_tiles, tl.num_programs(0), disable_licm=True):
        band = tile // n_band
        inside = tile - band * n_band
        wide = tl.minimum(BAND, n_image_tiles - band * BAND)
        tile_w, tile_v = inside // wide, band * BAND + inside % wide
        total = tile_product(
            words,
            word_stride,
            word_rows + tile_w.to(tl.int64) * TM,
            regions,
            region_stride,
            region_rows + tile_v.to(tl.int64) * TN,
            width,
            TM,
            TN,
            BK,
            EVEN,
            scratch.dtype.element_ty,
            PRODUCT,
        )
        if HALVES:
            near, far = tl.split(tl.permute(tl.reshape(total, (TM, 2, TN // 2)), (0, 2, 1)))
            half = s + i[:, None] * TN + tl.arange(0, TN // 2)[None, :]
            tl.store(half, near)
            tl.store(half + TN // 2, far)
        else:
            tl.store(s + i[:, None] * TN + j[None, :], total)
        tl.debug_barrier()  # the whole tile is there before any of it is read
        first_w, last_w = tl.load(caption_bounds + tile_w), tl.load(caption_bounds + tile_w + 1)
        first_v, last_v = tl.load(image_bounds + tile_v), tl.load(image_bounds + tile_v + 1)
        grams_w = word_grams + word_gram + (first_w - first_caption) * (BL * BL)
        grams_v = region_grams + region_gram + (first_v - first_image) * (BR * BR)
        if WORDS:
            score_tile(
                s,
                out,
                out_stride,
                caption_order,
                image_order,
                first_w,
                last_w,
                first_v,
                last_v,
                word_starts,
                region_starts,
                grams_w,
                grams_v,
                word_offsets,
                word_lengths,
                word_means,
                region_offsets,
                region_lengths,
                region_means,
                scalars,
                TN,
                C,
                BL,
                BR,
                1,
                NORM_W,
                ATTEND_W,
                RELEVANCE_W,
                AGGREGATE_W,
                STEPS_W,
                GATES_W,
                LEVEL_W,
                ALIGN,
                False,
                TURNED,
                PRECISION,
            )
            tl.debug_barrier()  # scores are there before the other pass adds to them
        if REGIONS:
            score_tile(
                s,
                out,
                out_stride,
                caption_order,
                image_order,
                first_w,
                last_w,
                first_v,
                last_v,
                word_starts,
                region_starts,
                grams_w,
                grams_v,
                word_offsets,
                word_lengths,
                word_means,
                region_offsets,
                region_lengths,
                region_means,
                scalars,
                TN,
                C,
                BL,
                BR,
                2,
                NORM_R,
                ATTEND_R,
                RELEVANCE_R,
                AGGREGATE_R,
                STEPS_R,
                GATES_R,
                LEVEL_R,
                ALIGN and not WORDS,
                WORDS,
                TURNED,
                PRECISION,
            )
            tl.debug_barrier()  # nothing of the tile is read any more
