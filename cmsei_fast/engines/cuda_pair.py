"""The pair score by CUDA kernels: a library's product, a chunk at a time, then one kernel that reads it once."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from cmsei_fast.engines.cuda_sides import Chunk, Run, Side, add_gram_gradient, layout, make_side
from cmsei_fast.engines.products import inner_products, inner_products_vjp
from cmsei_fast.engines.terms import accumulator

# Elements of a chunk's inner products: 64 MB forward, so that a few thousand launches score MS-COCO's 5,000 images and
# most of a chunk is still in a large second cache; 16 MB backward, where gradients of them exist as well.
FORWARD_CHUNK = 2**24
BACKWARD_CHUNK = 2**22
OPTIONS = 15  # of PairScorer.config() that the kernels know; the others are 0 where it asks for nothing else
MAX_NUMBERS = 2**22  # inner products of one pair: the kernels' workspace is a small multiple of it
_MAX_SCALARS = 38
_TEAMS = 1 << 12  # that fill a GPU


def refusal(region_offsets: Tensor, word_offsets: Tensor, config: list[int]) -> str | None:
    """Why a problem goes to another engine; None where the kernels take it."""
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
    widest = max(c.rows.stop - c.rows.start for c in images.layout.chunks)
    captions = make_side(words, layout(word_offsets, max(1, chunk // widest), words.device), precision)
    return images, captions


def _items(module: ModuleType, side: Side, chunk: Chunk, run: Run) -> Any:
    where = side.layout
    return module.PairItems(
        items=where.order[run.first :].data_ptr(),
        count=run.size,
        longest=run.longest,
        row=chunk.rows.start,
        start=chunk.grams.start,
        offsets=where.offsets.data_ptr(),
        gram_offsets=where.gram_offsets.data_ptr(),
        lengths=side.lengths.data_ptr(),
        means=side.means.data_ptr(),
        grams=side.grams.data_ptr(),
    )


def splits(images: int, captions: int) -> int:
    """Teams that share an image's captions: enough of them, yet no fewer than four captions for each."""
    return max(1, min(-(-_TEAMS // images), captions // 4))


class _Launcher:
    """The pairs of one chunk of images and one of captions, launch after launch on the current stream."""

    def __init__(self, module: ModuleType, images: Side, captions: Side, scalars: Tensor, config: list[int]) -> None:
        self.module, self.images, self.captions = module, images, captions
        self.scalars, self.config = scalars, tuple(config[:OPTIONS])
        device = scalars.device
        self.device = device.index if device.index is not None else 0
        self.stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0

    def run(
        self, chunks: tuple[Chunk, Chunk], runs: tuple[Run, Run], products: Tensor, scores: Tensor, **more: Any
    ) -> None:
        """One launch; ``more`` are the gradient's fields of PairCall."""
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
            **{"splits": splits(runs[0].size, runs[1].size), **more},
        )
        scratch = torch.empty(
            self.module.pair_scratch(call, bool(more), self.device), dtype=torch.uint8, device=products.device
        )
        call.scratch = scratch.data_ptr() if scratch.numel() else 0
        (self.module.pair_gradients if more else self.module.pair_scores)(call, self.device, self.stream)


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
    out = regions.new_empty(len(region_offsets) - 1, len(word_offsets) - 1, dtype=accumulator(precision))
    launcher = _Launcher(module, images, captions, scalars, config)
    for image_chunk in images.layout.chunks:
        v = images.rows[image_chunk.rows]
        for caption_chunk in captions.layout.chunks:
            s = inner_products(captions.rows[caption_chunk.rows], v)
            for own in image_chunk.runs:
                for other in caption_chunk.runs:
                    launcher.run((image_chunk, caption_chunk), (own, other), s, out)
    return out


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

    The inner products are computed again; their gradients go back by two products, those of the Gram matrices, summed
    in an order that never changes, by products of items of one length.
    """
    images, captions = _sides(regions, words, region_offsets, word_offsets, precision, BACKWARD_CHUNK)
    wide = accumulator(precision)
    grad = grad.to(wide).contiguous()
    d_regions, d_words = (torch.zeros(x.shape, dtype=wide, device=x.device) for x in (regions, words))
    d_image_grams, d_caption_grams = torch.zeros_like(images.grams), torch.zeros_like(captions.grams)
    d_scalars = torch.zeros(_MAX_SCALARS, dtype=torch.float64, device=regions.device)
    launcher = _Launcher(module, images, captions, scalars, config)
    for image_chunk in images.layout.chunks:
        v = images.rows[image_chunk.rows]
        for caption_chunk in captions.layout.chunks:
            w = captions.rows[caption_chunk.rows]
            s = inner_products(w, v)
            ds = torch.empty_like(s)
            for own in image_chunk.runs:
                for other in caption_chunk.runs:
                    shares = splits(own.size, other.size)
                    own_grams = s.new_zeros(shares, image_chunk.grams.stop - image_chunk.grams.start)
                    other_grams = s.new_zeros(own.size, caption_chunk.grams.stop - caption_chunk.grams.start)
                    numbers = s.new_empty(own.size * shares, _MAX_SCALARS, dtype=torch.float64)
                    launcher.run(
                        (image_chunk, caption_chunk),
                        (own, other),
                        s,
                        grad,
                        splits=shares,
                        d_products=ds.data_ptr(),
                        d_image_grams=own_grams.data_ptr(),
                        d_image_grams_stride=own_grams.stride(0),
                        d_caption_grams=other_grams.data_ptr(),
                        d_caption_grams_stride=other_grams.stride(0),
                        d_scalars=numbers.data_ptr(),
                    )
                    d_image_grams[image_chunk.grams] += own_grams.sum(0)
                    d_caption_grams[caption_chunk.grams] += other_grams.sum(0)
                    d_scalars += numbers.sum(0)
            d_words[caption_chunk.rows] += inner_products_vjp(ds, v)
            d_regions[image_chunk.rows] += inner_products_vjp(ds.T, w)
    add_gram_gradient(d_regions, images, d_image_grams)
    add_gram_gradient(d_words, captions, d_caption_grams)
    return d_regions, d_words, d_scalars[: len(scalars)]
