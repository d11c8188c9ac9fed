"""The pair score in one persistent kernel: a program computes a tile's product over D, then the scores of its pairs.

A tile is TM packed words × TN packed regions of whole items, so that no pair is cut. In one of 128 × 256, nine captions
of 13 words take 117 rows and seven images of 36 regions 252 columns. A program writes the inner products to its own
scratch in global memory and reads them back in the layout of ``pair_image.score_image``. It uses the same scratch for
every tile, so that all of it (132 programs · 128 KB = 17 MB) stays in the L2 cache.

Counted for a tile of 128 × 256 with D = 1024 in bfloat16: the product reads 384 · 2 KB = 0.79 MB of features, mostly
from the L2 cache, computes 2 · 128 · 256 · D = 67 MFLOP, of which 90 % belong to a pair, and writes 128 KB. Then 63
pairs read their 468 inner products each, with the operations of ``pair_score.py``, and 16 KB of Gram matrix for every
image. A library's product writes and reads the same 1.9 KB per pair, in chunks of which only most stays in the cache,
and multiplies no padding.
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
    ACC_TYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Inner products (TM, TN) of words and regions; word_rows and region_rows point to the packed rows of the tile."""
    column = tl.arange(0, BK)
    # Rows and strides are not negative. As unsigned 32-bit numbers, their products need no upper half of the stride.
    row_w, row_v = tl.load(word_rows + tl.arange(0, TM)), tl.load(region_rows + tl.arange(0, TN))
    offset_w = row_w.to(tl.uint32).to(tl.uint64) * tl.cast(tl.cast(word_stride, tl.uint32), tl.uint64)
    offset_v = row_v.to(tl.uint32).to(tl.uint64) * tl.cast(tl.cast(region_stride, tl.uint32), tl.uint64)
    word_ptrs = words + offset_w[:, None] + column[None, :]
    region_ptrs = regions + offset_v[:, None] + column[None, :]
    acc = tl.zeros((TM, TN), ACC_TYPE)
    for start in range(0, width, BK):
        if EVEN:
            word_block, region_block = tl.load(word_ptrs + start), tl.load(region_ptrs + start)
        else:
            column_mask = (start + column < width)[None, :]
            word_block, region_block = (
                tl.load(word_ptrs + start, mask=column_mask, other=0.0),  # [TM, BK]
                tl.load(region_ptrs + start, mask=column_mask, other=0.0),  # [TN, BK]
            )
        acc = tl.dot(word_block, tl.trans(region_block), acc, input_precision=PRECISION, out_dtype=ACC_TYPE)
    return acc


@triton.jit
def score_tile(
    products,
    scores,
    scores_stride,
    caption_order,
    image_order,
    caption_begin,
    caption_end,
    image_begin,
    image_end,
    word_starts,
    region_starts,
    caption_grams,
    image_grams,
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
    """One pass over the tile's pairs: captions at positions caption_begin … caption_end − 1, images likewise.

    ``word_starts`` and ``region_starts`` count from the tile's first row and column; ``caption_grams`` and
    ``image_grams`` point to the Gram matrices of its first caption and image.
    """
    for position in tl.range(image_begin, image_end, disable_licm=True):
        score_image(
            products,
            TN,
            scores,
            scores_stride,
            tl.load(image_order + position),
            caption_order,
            caption_begin,
            caption_end,
            word_starts,
            region_starts,
            0,
            0,
            caption_grams,
            image_grams + (position - image_begin) * (BR * BR),
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
    "tiles_per_band",
    "n_image_tiles",
    "first_caption",
    "first_image",
    "word_gram_start",
    "region_gram_start",
    "scores_stride",
]


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
def fused_scores(
    words,
    word_stride,
    regions,
    region_stride,
    width,
    scratch,
    scores,
    scores_stride,
    caption_order,
    image_order,
    caption_bounds,
    image_bounds,
    n_image_tiles,
    tiles_per_band,
    n_tiles,
    word_rows,
    region_rows,
    word_starts,
    region_starts,
    first_caption,
    first_image,
    word_gram_start,
    region_gram_start,
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
    WORD_QUERIES: tl.constexpr,
    NORM_W: tl.constexpr,
    ATTEND_W: tl.constexpr,
    RELEVANCE_W: tl.constexpr,
    AGGREGATE_W: tl.constexpr,
    STEPS_W: tl.constexpr,
    GATES_W: tl.constexpr,
    LEVEL_W: tl.constexpr,
    REGION_QUERIES: tl.constexpr,
    NORM_V: tl.constexpr,
    ATTEND_V: tl.constexpr,
    RELEVANCE_V: tl.constexpr,
    AGGREGATE_V: tl.constexpr,
    STEPS_V: tl.constexpr,
    GATES_V: tl.constexpr,
    LEVEL_V: tl.constexpr,
    ALIGN: tl.constexpr,
    FEATURE_PRECISION: tl.constexpr,
    TURNED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Both passes of all tiles. Grid (programs), any number: program i takes tiles i, i + programs, i + 2 programs, ….

    Args:
        words, regions: packed rows (rows, width) of unit column stride, row strides word_stride and region_stride.
        scratch: (programs, TM, TN) in the accumulator's dtype.
        scores: output (N, M), row stride scores_stride.
        caption_order, image_order: items in the order of launch; those of this launch begin at first_caption and
            first_image, their Gram matrices at word_gram_start and region_gram_start.
        caption_bounds, image_bounds: (tiles of captions or images + 1,) int64, positions where the tiles begin.
        n_image_tiles, tiles_per_band, n_tiles: tiles of images, tiles of a whole band, all tiles.
        word_rows, region_rows: (tiles of captions, TM) and (tiles of images, TN) int64, packed rows of each tile. Those
            past its last item are arbitrary, because nothing reads their products.
        word_starts, region_starts: (items,) int64, each item's first row or column within its tile.
        word_*, region_*, scalars: otherwise as ``pair_score.pair_scores`` takes them.
        EVEN: whether BK divides width.
        BAND: a tile of captions meets this many tiles of images before the next one does, so that their features stay
            in the cache.
        HALVES: whether a tile's products are stored in two halves, as they come from tensor memory.
        WORD_QUERIES, REGION_QUERIES: which passes there are; the options of each end in _W and _V.
        FEATURE_PRECISION, PRECISION: how the features are multiplied, and how the small products are.
        TURNED: as ``products.gram_product`` takes it.
    """
    products = scratch + tl.program_id(0).to(tl.int64) * (TM * TN)
    row, column = tl.arange(0, TM), tl.arange(0, TN)
    for tile in tl.range(tl.program_id(0), n_tiles, tl.num_programs(0), disable_licm=True):
        band = tile // tiles_per_band
        tile_in_band = tile - band * tiles_per_band
        band_width = tl.minimum(BAND, n_image_tiles - band * BAND)
        tile_w, tile_v = tile_in_band // band_width, band * BAND + tile_in_band % band_width
        acc = tile_product(
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
            FEATURE_PRECISION,
        )
        if HALVES:
            left_half, right_half = tl.split(tl.permute(tl.reshape(acc, (TM, 2, TN // 2)), (0, 2, 1)))
            left_ptrs = products + row[:, None] * TN + tl.arange(0, TN // 2)[None, :]
            tl.store(left_ptrs, left_half)
            tl.store(left_ptrs + TN // 2, right_half)
        else:
            tl.store(products + row[:, None] * TN + column[None, :], acc)
        tl.debug_barrier()  # the whole tile is written before any of it is read
        caption_begin, caption_end = tl.load(caption_bounds + tile_w), tl.load(caption_bounds + tile_w + 1)
        image_begin, image_end = tl.load(image_bounds + tile_v), tl.load(image_bounds + tile_v + 1)
        caption_grams = word_grams + word_gram_start + (caption_begin - first_caption) * (BL * BL)
        image_grams = region_grams + region_gram_start + (image_begin - first_image) * (BR * BR)
        if WORD_QUERIES:
            score_tile(
                products,
                scores,
                scores_stride,
                caption_order,
                image_order,
                caption_begin,
                caption_end,
                image_begin,
                image_end,
                word_starts,
                region_starts,
                caption_grams,
                image_grams,
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
            tl.debug_barrier()  # the scores are written before the other pass adds to them
        if REGION_QUERIES:
            score_tile(
                products,
                scores,
                scores_stride,
                caption_order,
                image_order,
                caption_begin,
                caption_end,
                image_begin,
                image_end,
                word_starts,
                region_starts,
                caption_grams,
                image_grams,
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
                NORM_V,
                ATTEND_V,
                RELEVANCE_V,
                AGGREGATE_V,
                STEPS_V,
                GATES_V,
                LEVEL_V,
                ALIGN and not WORD_QUERIES,
                WORD_QUERIES,
                TURNED,
                PRECISION,
            )
            tl.debug_barrier()  # the tile has been read before the next one overwrites it
