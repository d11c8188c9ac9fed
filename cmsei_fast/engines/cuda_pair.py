"""The pair score by CUDA kernels: a library multiplies a chunk, then one kernel reads its products once."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from cmsei_fast.engines.cuda_sides import Chunk, Run, Side, add_gram_gradient, layout, make_side
from cmsei_fast.engines.products import inner_products, inner_products_vjp
from cmsei_fast.engines.terms import accumulator

# Inner products of a chunk. Forward they take 64 MB: a few thousand launches score MS-COCO's 5,000 images, and most of
# a chunk is still in a large L2 cache. Backward they take 16 MB, because their gradients exist as well.
FORWARD_CHUNK = 2**24
BACKWARD_CHUNK = 2**22
OPTIONS = 15  # first numbers of PairScorer.config(), which the kernels know; the others must be 0
MAX_NUMBERS = 2**22  # inner products of one pair; the kernels' workspace is a small multiple of it
_MAX_SCALARS = 38
_TEAMS = 1 << 12  # enough to fill a GPU


def refusal(region_offsets: Tensor, word_offsets: Tensor, config: list[int]) -> str | None:
    """Why another engine must compute a problem; None if the kernels take it."""
    if any(config[OPTIONS:]) or any(config[i] == 0 for i in (3, 7)):
        return f"the scorer has options the kernels do not know (beyond the first {OPTIONS} numbers of {list(config)})"
    largest = int(region_offsets.diff().max()) * int(word_offsets.diff().max())
    if largest > MAX_NUMBERS:
        return f"a pair has up to {largest} inner products, the kernels hold {MAX_NUMBERS}"
    return None


def _sides(
    regions: Tensor, words: Tensor, region_offsets: Tensor, word_offsets: Tensor, precision: str, chunk: int
) -> tuple[Side, Side]:
    """Images and captions, cut so that a chunk of each has about ``chunk`` inner products."""
    images = make_side(regions, layout(region_offsets, max(1, int(chunk**0.5)), regions.device), precision)
    most_rows = max(c.rows.stop - c.rows.start for c in images.layout.chunks)
    captions = make_side(words, layout(word_offsets, max(1, chunk // most_rows), words.device), precision)
    return images, captions


def _items(module: ModuleType, side: Side, chunk: Chunk, run: Run) -> Any:
    side_layout = side.layout
    return module.PairItems(
        items=side_layout.order[run.first :].data_ptr(),
        count=run.size,
        longest=run.longest,
        row=chunk.rows.start,
        start=chunk.grams.start,
        offsets=side_layout.offsets.data_ptr(),
        gram_offsets=side_layout.gram_offsets.data_ptr(),
        lengths=side.lengths.data_ptr(),
        means=side.means.data_ptr(),
        grams=side.grams.data_ptr(),
    )


def splits(images: int, captions: int) -> int:
    """Teams that share an image's captions: enough to fill a GPU, but each with at least four captions."""
    return max(1, min(-(-_TEAMS // images), captions // 4))


class _Launcher:
    """Launches the kernels on runs of images and captions, on the current stream."""

    def __init__(self, module: ModuleType, images: Side, captions: Side, scalars: Tensor, config: list[int]) -> None:
        self.module, self.images, self.captions = module, images, captions
        self.scalars, self.config = scalars, tuple(config[:OPTIONS])
        device = scalars.device
        self.device = device.index if device.index is not None else 0
        self.stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0

    def run(
        self,
        chunks: tuple[Chunk, Chunk],
        runs: tuple[Run, Run],
        products: Tensor,
        scores: Tensor,
        **gradient_fields: Any,
    ) -> None:
        """One launch: scores, or gradients if ``gradient_fields`` of PairCall are given."""
        call = self.module.PairCall(
            type=int(products.dtype == torch.float64),
            config=self.config,
            scalars=self.scalars.data_ptr(),
            images=_items(self.module, self.images, chunks[0], runs[0]),
            captions=_items(self.module, self.captions, chunks[1], runs[1]),
            products=products.data_ptr(),
            products_stride=products.stride(0),
            scores=scores.data_ptr(),
            scores_stride=scores.stride(0),
            **{"splits": splits(runs[0].size, runs[1].size), **gradient_fields},
        )
        scratch = torch.empty(
            self.module.pair_scratch(call, bool(gradient_fields), self.device),
            dtype=torch.uint8,
            device=products.device,
        )
        call.scratch = scratch.data_ptr() if scratch.numel() else 0
        (self.module.pair_gradients if gradient_fields else self.module.pair_scores)(call, self.device, self.stream)


def pair_score(
    module: ModuleType,
    regions: Tensor,
    words: Tensor,
    region_offsets: Tensor,
    word_offsets: Tensor,
    scalars: Tensor,
    config: list[int],
    precision: str,
) -> Tensor:
    """Scores (N, M) of packed regions (ΣR, D) and words (ΣL, D) that :func:`refusal` does not refuse.

    Args:
        module: ``cmsei_fast._cuda``.
        scalars: on the features' device, in the accumulator's dtype.
    """
    images, captions = _sides(regions, words, region_offsets, word_offsets, precision, FORWARD_CHUNK)
    scores = regions.new_empty(len(region_offsets) - 1, len(word_offsets) - 1, dtype=accumulator(precision))
    launcher = _Launcher(module, images, captions, scalars, config)
    for image_chunk in images.layout.chunks:
        image_rows = images.rows[image_chunk.rows]
        for caption_chunk in captions.layout.chunks:
            products = inner_products(captions.rows[caption_chunk.rows], image_rows)
            for image_run in image_chunk.runs:
                for caption_run in caption_chunk.runs:
                    launcher.run((image_chunk, caption_chunk), (image_run, caption_run), products, scores)
    return scores


def pair_score_backward(
    module: ModuleType,
    grad: Tensor,
    regions: Tensor,
    words: Tensor,
    region_offsets: Tensor,
    word_offsets: Tensor,
    scalars: Tensor,
    config: list[int],
    precision: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of regions and words in the accumulator's dtype and of the scalars in float64; grad (N, M).

    The inner products are computed again, and two products turn their gradients into those of the features. The
    gradients of the Gram matrices are summed in a fixed order; products of items of equal length turn them into those
    of the features.
    """
    images, captions = _sides(regions, words, region_offsets, word_offsets, precision, BACKWARD_CHUNK)
    acc_dtype = accumulator(precision)
    grad = grad.to(acc_dtype).contiguous()
    d_regions, d_words = (torch.zeros(x.shape, dtype=acc_dtype, device=x.device) for x in (regions, words))
    d_image_grams, d_caption_grams = torch.zeros_like(images.grams), torch.zeros_like(captions.grams)
    d_scalars = torch.zeros(_MAX_SCALARS, dtype=torch.float64, device=regions.device)
    launcher = _Launcher(module, images, captions, scalars, config)
    for image_chunk in images.layout.chunks:
        image_rows = images.rows[image_chunk.rows]
        for caption_chunk in captions.layout.chunks:
            caption_rows = captions.rows[caption_chunk.rows]
            products = inner_products(caption_rows, image_rows)
            d_products = torch.empty_like(products)
            for image_run in image_chunk.runs:
                for caption_run in caption_chunk.runs:
                    n_teams = splits(image_run.size, caption_run.size)
                    image_gram_parts = products.new_zeros(n_teams, image_chunk.grams.stop - image_chunk.grams.start)
                    caption_gram_parts = products.new_zeros(
                        image_run.size, caption_chunk.grams.stop - caption_chunk.grams.start
                    )
                    scalar_parts = products.new_empty(image_run.size * n_teams, _MAX_SCALARS, dtype=torch.float64)
                    launcher.run(
                        (image_chunk, caption_chunk),
                        (image_run, caption_run),
                        products,
                        grad,
                        splits=n_teams,
                        d_products=d_products.data_ptr(),
                        d_image_grams=image_gram_parts.data_ptr(),
                        d_image_grams_stride=image_gram_parts.stride(0),
                        d_caption_grams=caption_gram_parts.data_ptr(),
                        d_caption_grams_stride=caption_gram_parts.stride(0),
                        d_scalars=scalar_parts.data_ptr(),
                    )
                    d_image_grams[image_chunk.grams] += image_gram_parts.sum(0)
                    d_caption_grams[caption_chunk.grams] += caption_gram_parts.sum(0)
                    d_scalars += scalar_parts.sum(0)
            d_words[caption_chunk.rows] += inner_products_vjp(d_products, image_rows)
            d_regions[image_chunk.rows] += inner_products_vjp(d_products.T, caption_rows)
    add_gram_gradient(d_regions, images, d_image_grams)
    add_gram_gradient(d_words, captions, d_caption_grams)
    return d_regions, d_words, d_scalars[: len(scalars)]
