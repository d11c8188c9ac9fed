"""The pair score from inner products that a library has computed: one kernel, which reads them once in each pass.

A program handles one image and several groups of C captions padded to one length, so that it loads the image's Gram
matrix once. A pass has the queries on one side (``pair.py``); a second pass reads the products again, from the cache.

Counted for 36 regions and 13 words, a pair reads 13 · 36 · 4 = 1.9 KB of products from the L2 cache and, for i2t, 16² ·
4 = 1 KB of the caption's padded Gram matrix. It computes 16 · 64 padded elements: about 30 operations and one
exponential each per direction and step, and on the tensor cores 2 · 16 · 64² = 131 kFLOP (i2t: 2 · 64 · 32 · 16 = 66
kFLOP). The library's product is 2 · 13 · 36 · D = 0.96 MFLOP at D = 1024.
"""

import triton
import triton.language as tl
from cmsei_fast.kernels.pair_image import score_image

_NOT_SPECIALIZED = [
    "n_captions",
    "first_caption",
    "first_image",
    "word_origin",
    "region_origin",
    "products_stride",
    "scores_stride",
]
_NOT_SPECIALIZED += ["word_gram_start", "region_gram_start"]


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
def pair_scores(
    products,
    products_stride,
    scores,
    scores_stride,
    caption_order,
    image_order,
    first_caption,
    n_captions,
    first_image,
    word_origin,
    region_origin,
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
    C: tl.constexpr,
    BL: tl.constexpr,
    BR: tl.constexpr,
    GROUPS_PER_PROGRAM: tl.constexpr,
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
    """Scores of one image with up to GROUPS_PER_PROGRAM groups of C captions.

    Grid (images, groups / GROUPS_PER_PROGRAM).

    Args:
        products: (words, regions) inner products of a chunk, row stride products_stride; the first row is that of the
            packed word word_origin, the first column that of the packed region region_origin.
        scores: output (N, M), row stride scores_stride.
        caption_order, image_order: items in the order of launch. This launch takes the n_captions captions from
            position first_caption on, of at most BL words, and the images from first_image on, of at most BR regions.
        word_gram_start, region_gram_start: where the Gram matrices of these captions and images begin.
        word_*, region_*: the two sides, as ``pair.py`` describes them.
        ADD: whether to add to the scores of an earlier pass.
        TURNED: as ``products.gram_product`` takes it.
    """
    image = tl.load(image_order + first_image + tl.program_id(0))
    begin = tl.program_id(1) * (GROUPS_PER_PROGRAM * C)
    score_image(
        products,
        products_stride,
        scores,
        scores_stride,
        image,
        caption_order + first_caption,
        begin,
        tl.minimum(begin + GROUPS_PER_PROGRAM * C, n_captions),
        word_offsets,
        region_offsets,
        word_origin,
        region_origin,
        word_grams + word_gram_start + begin * (BL * BL),
        region_grams + region_gram_start + tl.program_id(0) * (BR * BR),
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
