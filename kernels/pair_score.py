"""The pair score's epilogue: from a library's product of packed words and regions to scores, reading it once.

A program owns one image and walks over groups of C captions of about one length, so that the image's Gram matrix is
loaded once. One side asks a pass (``pair.py``); a second pass, where both do, reads the products from the cache
again. With 36 regions and 13 words a pair reads 13 · 36 · 4 = 1.9 KB of products from the second cache and, of what
i2t needs, 16² · 4 = 1 KB of the caption's padded Gram matrix; it computes 16 · 64 padded places: about 30 operations
and one exponential each a direction and step, and 2 · 16 · 64² = 131 kFLOP on the tensor cores (i2t: 2 · 64 · 32 · 16
= 66 kFLOP). The product before it is 2 · 13 · 36 · D = 0.96 MFLOP at D 1024.
"""

import triton
import triton.language as tl
from cmsei_fast.kernels.pair_image import score_image

_NOT_SPECIALIZED = ["n_captions", "first_caption", "first_image", "word_row", "region_row", "s_stride", "out_stride"]
_NOT_SPECIALIZED += ["word_gram", "region_gram"]


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
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
    begin = tl.program_id(1) * (PER * C)
    score_image(
        s,
        s_stride,
        out,
        out_stride,
        image,
        caption_order + first_caption,
        begin,
        tl.minimum(begin + PER * C, n_captions),
        word_offsets,
        region_offsets,
        word_row,
        region_row,
        word_grams + word_gram + begin * (BL * BL),
        region_grams + region_gram + tl.program_id(0) * (BR * BR),
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
        False,
        TURNED,
        PRECISION,
    )
