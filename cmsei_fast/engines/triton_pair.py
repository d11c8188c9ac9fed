"""The pair score by Triton kernels: a library's product, a chunk at a time, then one kernel that reads it once."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cmsei_fast.engines.products import inner_products
from cmsei_fast.engines.terms import accumulator
from cmsei_fast.engines.triton_launch import Launch, architecture, tuned, turned
from cmsei_fast.engines.triton_sides import Chunk, Run, Side, layout, make_side, product_precision
from cmsei_fast.scorer import AGGREGATES, ATTENDS, FIRST_GATE, I2T_ATTEND, NORMS, RELEVANCES, T2I_ATTEND, thresholds

# Elements of a chunk's inner products: 64 MB forward, so that a few thousand launches score MS-COCO's 5,000 images and
# most of a chunk is still in a large second cache; 16 MB backward, where gradients of them exist as well.
FORWARD_CHUNK = 2**24
BACKWARD_CHUNK = 2**22
_MOST_ROWS = 2**16  # of a chunk of captions: places within it, and within its Gram matrices, are 32 bits


def passes(config: list[int]) -> list[dict[str, Any]]:
    """The kernels' compile-time options for each pass from ``PairScorer.config()``: words ask, regions ask, or both."""
    out = []
    object_sentence, word_image, alignment = map(bool, config[8:11])
    aware = thresholds(config)
    for query, first, level in ((1, 0, word_image), (2, 4, object_sentence)):
        active, norm, aggregate, steps = config[first : first + 4]
        if not (active or level):
            continue
        options = {"QUERY": query, "NORM": NORMS[norm] if active else "", "STEPS": steps, "LEVEL": level}
        attend, relevance = config[(T2I_ATTEND, I2T_ATTEND)[query - 1] :][:2]
        options |= {"ATTEND": ATTENDS[attend], "RELEVANCE": RELEVANCES[relevance]}
        options["AGGREGATE"] = AGGREGATES[aggregate] if active else ""
        options["GATES"] = FIRST_GATE + (2 * (config[3] - 1) if query == 2 else 0)
        if query - 1 in aware:  # no gates, but a threshold behind all gates
            options["GATES"] = FIRST_GATE + 2 * (config[3] + config[7] - 2) + aware.index(query - 1)
        out.append(options)
    if not out:  # nothing but the alignment
        out.append({"QUERY": 1, "NORM": "", "STEPS": 1, "LEVEL": False, "AGGREGATE": "", "GATES": FIRST_GATE})
        out[0] |= {"ATTEND": "softmax", "RELEVANCE": "cosine"}
    return [x | {"ALIGN": alignment and i == 0, "ADD": i > 0} for i, x in enumerate(out)]


def pass_precision(options: dict[str, Any], precision: str) -> str:
    """How a pass multiplies.

    A choice of the second step must not hang on operands that were rounded in the first, and a third step has the
    roundings of two refinements, which beside features of float16, rounded no more coarsely, would show.
    """
    chooses = options["ATTEND"] != "softmax" and options["STEPS"] > 1
    return product_precision(precision, chooses or (precision == "float16" and options["STEPS"] > 2))


def sides(
    regions: Tensor, words: Tensor, region_offsets: Tensor, word_offsets: Tensor, precision: str, chunk: int
) -> tuple[Side, Side]:
    """Images (ΣR, D) and captions (ΣL, D), cut so that a chunk of each has about ``chunk`` inner products."""
    images = make_side(regions, layout(region_offsets, max(1, int(chunk**0.5)), regions.device), precision)
    widest = max(c.rows.stop - c.rows.start for c in images.layout.chunks)
    captions = make_side(words, layout(word_offsets, min(_MOST_ROWS, max(1, chunk // widest)), words.device), precision)
    return images, captions


def pair_score(
    regions: Tensor,
    words: Tensor,
    region_offsets: Tensor,
    word_offsets: Tensor,
    scalars: Tensor,
    config: list[int],
    precision: str,
) -> Tensor:
    """Scores (N, M) of packed regions (ΣR, D) and words (ΣL, D), every item of at most ``MAX_ROWS`` rows.

    ``scalars`` are on the features' device, in the accumulator's dtype.
    """
    images, captions = sides(regions, words, region_offsets, word_offsets, precision, FORWARD_CHUNK)
    out = regions.new_empty(len(region_offsets) - 1, len(word_offsets) - 1, dtype=accumulator(precision))
    for image_chunk in images.layout.chunks:
        v = images.rows[image_chunk.rows]
        for caption_chunk in captions.layout.chunks:
            s = inner_products(captions.rows[caption_chunk.rows], v)
            for options in passes(config):
                _score_chunk(s, out, images, captions, image_chunk, caption_chunk, scalars, options, precision)
    return out


def _score_chunk(
    s: Tensor,
    out: Tensor,
    images: Side,
    captions: Side,
    image_chunk: Chunk,
    caption_chunk: Chunk,
    scalars: Tensor,
    options: dict[str, Any],
    precision: str,
) -> None:
    """One pass over the inner products s (words, regions) of two chunks, into out (N, M)."""
    from cmsei_fast.kernels.pair_score import pair_scores

    options = options | {"PRECISION": pass_precision(options, precision)}
    for own, other in itertools.product(image_chunk.runs, caption_chunk.runs):

        def run(how: Launch, target: Tensor, own: Run = own, other: Run = other) -> None:
            per = how.per(other.size, own.size)
            pair_scores[own.size, -(-other.size // (how.captions * per))](
                s,
                s.stride(0),
                target,
                target.stride(0),
                captions.layout.order,
                images.layout.order,
                other.first,
                other.size,
                own.first,
                caption_chunk.rows.start,
                image_chunk.rows.start,
                other.gram,
                own.gram,
                *captions.arguments,
                *images.arguments,
                scalars,
                C=how.captions,
                BL=other.block,
                BR=own.block,
                PER=per,
                TURNED=turned("pair_scores", architecture(s.device), other.block, options),
                **options,
                num_warps=how.warps,
            )

        def trial(how: Launch, run: Callable[..., None] = run) -> None:
            run(how, torch.empty_like(out))

        pairs = own.size * other.size
        run(tuned(other.block, own.block, options, pairs, s.device, trial), out)
