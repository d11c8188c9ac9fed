"""The pair score by Triton kernels, design ``chunked``: a library multiplies a chunk, a kernel scores its pairs."""

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

# Inner products of a chunk. Forward they take 64 MB: a few thousand launches score MS-COCO's 5,000 images, and most of
# a chunk is still in a large L2 cache. Backward they take 16 MB, because their gradients exist as well.
FORWARD_CHUNK = 2**24
BACKWARD_CHUNK = 2**22
_MOST_ROWS = 2**16  # of a chunk of captions, so that offsets within it and within its Gram matrices fit 32 bits


def passes(config: list[int]) -> list[dict[str, Any]]:
    """The kernels' compile-time options of each pass from ``PairScorer.config()``: word queries first, then regions."""
    all_options = []
    object_sentence, word_image, alignment = map(bool, config[8:11])
    aware = thresholds(config)
    for query, index, level in ((1, 0, word_image), (2, 4, object_sentence)):
        has_direction, norm, aggregate, steps = config[index : index + 4]
        if not (has_direction or level):
            continue
        options = {"QUERY": query, "NORM": NORMS[norm] if has_direction else "", "STEPS": steps, "LEVEL": level}
        attend, relevance = config[(T2I_ATTEND, I2T_ATTEND)[query - 1] :][:2]
        options |= {"ATTEND": ATTENDS[attend], "RELEVANCE": RELEVANCES[relevance]}
        options["AGGREGATE"] = AGGREGATES[aggregate] if has_direction else ""
        options["GATES"] = FIRST_GATE + (2 * (config[3] - 1) if query == 2 else 0)
        if query - 1 in aware:  # no gates, but a threshold behind all gates
            options["GATES"] = FIRST_GATE + 2 * (config[3] + config[7] - 2) + aware.index(query - 1)
        all_options.append(options)
    if not all_options:  # nothing but the alignment
        all_options.append({"QUERY": 1, "NORM": "", "STEPS": 1, "LEVEL": False, "AGGREGATE": "", "GATES": FIRST_GATE})
        all_options[0] |= {"ATTEND": "softmax", "RELEVANCE": "cosine"}
    return [x | {"ALIGN": alignment and i == 0, "ADD": i > 0} for i, x in enumerate(all_options)]


def pass_precision(options: dict[str, Any], precision: str) -> str:
    """Precision of a pass's small products.

    They are exact if a second step makes a choice, which must not depend on rounding in the first. They are also exact
    for three or more steps with float16 features, which are rounded no more coarsely than tf32: the roundings of two
    refinements would exceed those of the features.
    """
    chooses = options["ATTEND"] != "softmax" and options["STEPS"] > 1
    return product_precision(precision, chooses or (precision == "float16" and options["STEPS"] > 2))


def sides(
    regions: Tensor, words: Tensor, region_offsets: Tensor, word_offsets: Tensor, precision: str, chunk: int
) -> tuple[Side, Side]:
    """Images (ΣR, D) and captions (ΣL, D), cut so that a chunk of each has about ``chunk`` inner products."""
    images = make_side(regions, layout(region_offsets, max(1, int(chunk**0.5)), regions.device), precision)
    most_rows = max(c.rows.stop - c.rows.start for c in images.layout.chunks)
    captions = make_side(
        words, layout(word_offsets, min(_MOST_ROWS, max(1, chunk // most_rows)), words.device), precision
    )
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
    scores = regions.new_empty(len(region_offsets) - 1, len(word_offsets) - 1, dtype=accumulator(precision))
    for image_chunk in images.layout.chunks:
        image_rows = images.rows[image_chunk.rows]
        for caption_chunk in captions.layout.chunks:
            products = inner_products(captions.rows[caption_chunk.rows], image_rows)
            for options in passes(config):
                _score_chunk(
                    products, scores, images, captions, image_chunk, caption_chunk, scalars, options, precision
                )
    return scores


def _score_chunk(
    products: Tensor,
    scores: Tensor,
    images: Side,
    captions: Side,
    image_chunk: Chunk,
    caption_chunk: Chunk,
    scalars: Tensor,
    options: dict[str, Any],
    precision: str,
) -> None:
    """One pass over two chunks, from their inner products (words, regions) into scores (N, M)."""
    from cmsei_fast.kernels.pair_score import pair_scores

    options = options | {"PRECISION": pass_precision(options, precision)}
    for image_run, caption_run in itertools.product(image_chunk.runs, caption_chunk.runs):

        def run(plan: Launch, target: Tensor, image_run: Run = image_run, caption_run: Run = caption_run) -> None:
            groups = plan.groups_per_program(caption_run.size, image_run.size)
            pair_scores[image_run.size, -(-caption_run.size // (plan.captions * groups))](
                products,
                products.stride(0),
                target,
                target.stride(0),
                captions.layout.order,
                images.layout.order,
                caption_run.first,
                caption_run.size,
                image_run.first,
                caption_chunk.rows.start,
                image_chunk.rows.start,
                caption_run.gram_start,
                image_run.gram_start,
                *captions.arguments,
                *images.arguments,
                scalars,
                C=plan.captions,
                BL=caption_run.block,
                BR=image_run.block,
                GROUPS_PER_PROGRAM=groups,
                TURNED=turned("pair_scores", architecture(products.device), caption_run.block, options),
                **options,
                num_warps=plan.warps,
            )

        def trial(plan: Launch, run: Callable[..., None] = run) -> None:
            run(plan, torch.empty_like(scores))

        pairs = image_run.size * caption_run.size
        run(tuned(caption_run.block, image_run.block, options, pairs, products.device, trial), scores)
