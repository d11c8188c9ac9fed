"""Both operators in batched torch operations, on any device.

``pair_score`` uses the Gram form, in which the width D occurs in one matrix product per tile only. Images and captions
are sorted by length and tiled, and padding exists only inside a tile. The backward pass recomputes tile by tile.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cmsei_fast.engines.eager_relation import relation_attention, relation_attention_backward
from cmsei_fast.engines.gram import PaddedItems, score_tile
from cmsei_fast.engines.products import inner_products, inner_products_vjp
from cmsei_fast.engines.recording import recording
from cmsei_fast.engines.terms import PRECISIONS, Direction, Terms, accumulator, read_terms

__all__ = [
    "pair_score",
    "pair_score_backward",
    "relation_attention",
    "relation_attention_backward",
    "unavailable",
]

# Elements of one tile of S: few enough for a CPU's caches, enough to fill a GPU; fewer where autograd keeps many.
_FORWARD_TILE = {"cpu": 2**20, "other": 2**25}
_BACKWARD_TILE = {"cpu": 2**18, "other": 2**23}


def unavailable() -> str | None:
    """None: torch is all it needs."""
    return None


class _Chunk(NamedTuple):
    """Some images (or captions): where their rows lie, and how they are padded."""

    items: Tensor  # (X,) the index of each among all
    take: slice | Tensor  # where their packed rows are among all rows
    pad: Tensor | None  # (X n,) for each padded place, a row of the chunk; None if nothing is padded
    unpad: Tensor | None  # (rows,) for each row of the chunk, its padded place; None likewise
    longest: int  # n
    mask: Tensor | None  # (X, n) True for members; None likewise
    size: Tensor  # (X,) members, in the accumulator's dtype


def _chunks(offsets: Tensor, limit: int, device: torch.device, dtype: torch.dtype) -> list[_Chunk]:
    """Items sorted by length, cut so that items × longest stays within limit (one item at least)."""
    lengths, order = offsets.diff().sort(stable=True)
    sizes, starts, ids = lengths.tolist(), offsets[order], order.tolist()
    out, first = [], 0
    while first < len(sizes):
        stop = first + 1
        while stop < len(sizes) and (stop + 1 - first) * sizes[stop] <= limit:
            stop += 1
        own, longest = lengths[first:stop], sizes[stop - 1]
        mask = torch.arange(longest, device="cpu") < own[:, None]  # (X, n)
        take: slice | Tensor
        if ids[first:stop] == list(range(ids[first], ids[first] + stop - first)):
            take = slice(int(starts[first]), int(starts[stop - 1]) + longest)
        else:
            take = (starts[first:stop, None] + torch.arange(longest, device="cpu"))[mask].to(device)
        uniform = sizes[first] == longest
        pad = (mask.flatten().cumsum(0) - 1).clamp(min=0).to(device)
        out.append(
            _Chunk(
                order[first:stop].to(device),
                take,
                None if uniform else pad,
                None if uniform else mask.flatten().nonzero()[:, 0].to(device),
                longest,
                None if uniform else mask.to(device),
                own.to(device, dtype),
            )
        )
        first = stop
    return out


def _rows(x: Tensor, chunk: _Chunk, precision: str) -> Tensor:
    """The chunk's packed rows (rows, D), rounded; held in float32 where the device's product would round its output."""
    rows = x[chunk.take].to(PRECISIONS[precision])
    return rows if rows.is_cuda else rows.to(accumulator(precision))


def _padded(rows: Tensor, chunk: _Chunk) -> Tensor:
    """(X, n, D) from packed rows (rows, D), 0 in the padding."""
    if chunk.pad is None:
        return rows.view(-1, chunk.longest, rows.shape[1])
    out = rows.index_select(0, chunk.pad).view(-1, chunk.longest, rows.shape[1])
    return out if chunk.mask is None else out.masked_fill_(~chunk.mask[..., None], 0)


def _sums(x: Tensor, square: Tensor) -> Tensor:
    """(X, D) float64 sums of x (X, n, D): if members cancel out, a sum in float32 would be nothing but its rounding.

    ``square`` (X, n): |x|².
    """
    if x.device.type != "cpu" or x.dtype == torch.float64:
        return x.sum(1, dtype=torch.float64)
    out = x.sum(1).double()  # a float64 sum takes a CPU many times as long
    cancelling = out.square().sum(-1) < 1e-4 * square.sum(-1)
    out[cancelling] = x[cancelling].sum(1, dtype=torch.float64)
    return out


def _side(rows: Tensor, chunk: _Chunk, dtype: torch.dtype, gram: bool, mean: bool) -> PaddedItems:
    x = _padded(rows.to(dtype), chunk)  # (X, n, D)
    square = x.square().sum(-1)
    return PaddedItems(
        square,
        (_sums(x, square) / chunk.size[:, None]).square().sum(-1).to(dtype) if mean else x.new_empty(0),
        x @ x.mT if gram else x.new_empty(0),
        chunk.size,
        chunk.mask,
    )


def _needs(terms: Terms) -> tuple[dict[str, bool], dict[str, bool]]:
    """Whether the images and the captions need their Gram matrices and the length of their means."""

    def needs_gram(as_context: Direction | None, as_queries: Direction | None) -> bool:
        """True for a context that is attended to softly, and for queries that are compared with each other."""
        soft = as_context is not None and (as_context.attend != "hard" or as_context.steps > 1)
        return soft or (as_queries is not None and as_queries.attend == "negative_aware")

    images = {
        "gram": needs_gram(terms.t2i, terms.i2t) or terms.object_sentence is not None,
        "mean": terms.guides_words or terms.alignment is not None,
    }
    captions = {
        "gram": needs_gram(terms.i2t, terms.t2i) or terms.word_image is not None,
        "mean": terms.guides_regions or terms.alignment is not None,
    }
    return images, captions


def _tile(words: Tensor, regions: Tensor, captions: _Chunk, images: _Chunk) -> Tensor:
    """s (I, J, L, R), contiguous and 0 in the padding, from the chunks' packed rows."""
    s = inner_products(words, regions)  # (ΣL, ΣR)
    if captions.pad is not None:
        s = s.index_select(0, captions.pad)
    if images.pad is not None:
        s = s.index_select(1, images.pad)
    s = s.view(-1, captions.longest, len(images.items), images.longest).permute(2, 0, 1, 3).contiguous()
    if captions.mask is not None:
        s.masked_fill_(~captions.mask[:, :, None], 0)
    if images.mask is not None:
        s.masked_fill_(~images.mask[:, None, None], 0)
    return s


def _untile(ds: Tensor, captions: _Chunk, images: _Chunk) -> Tensor:
    """The gradient of the chunks' packed product (ΣL, ΣR) from that of s (I, J, L, R)."""
    packed = ds.permute(1, 2, 0, 3).reshape(ds.shape[1] * ds.shape[2], -1)
    if captions.unpad is not None:
        packed = packed.index_select(0, captions.unpad)
    if images.unpad is not None:
        packed = packed.index_select(1, images.unpad)
    return packed


def _cut(
    region_offsets: Tensor, word_offsets: Tensor, tiles: dict[str, int], device: torch.device, dtype: torch.dtype
) -> tuple[list[_Chunk], list[_Chunk]]:
    """Chunks of images and of captions whose products have about the given number of elements."""
    tile = tiles.get(device.type, tiles["other"])
    images = _chunks(region_offsets, int(tile**0.5), device, dtype)
    widest = max(len(c.items) * c.longest for c in images)
    return images, _chunks(word_offsets, max(1, tile // widest), device, dtype)


def pair_score(
    regions: Tensor,
    words: Tensor,
    region_offsets: Tensor,
    word_offsets: Tensor,
    scalars: Tensor,
    config: list[int],
    precision: str,
) -> Tensor:
    """Scores (N, M) of packed regions (ΣR, D) and words (ΣL, D); other memory does not grow with N M."""
    dtype, device = accumulator(precision), regions.device
    terms = read_terms(scalars.to(device, dtype), config)
    image_chunks, caption_chunks = _cut(region_offsets, word_offsets, _FORWARD_TILE, device, dtype)
    image_needs, caption_needs = _needs(terms)
    out = torch.empty(len(region_offsets) - 1, len(word_offsets) - 1, device=device, dtype=dtype)
    captions = [_side(_rows(words, c, precision), c, dtype, **caption_needs) for c in caption_chunks]
    for image_chunk in image_chunks:
        v = _rows(regions, image_chunk, precision)
        image_side = _side(v, image_chunk, dtype, **image_needs)
        for caption_chunk, caption_side in zip(caption_chunks, captions, strict=True):
            s = _tile(_rows(words, caption_chunk, precision), v, caption_chunk, image_chunk)
            out[image_chunk.items[:, None], caption_chunk.items] = score_tile(s, image_side, caption_side, terms)
    return out


class _SideGradient:
    """The leaves of one chunk's side and what the tiles add to their gradients."""

    def __init__(self, side: PaddedItems) -> None:
        self.names = [name for name in ("square", "mean_square", "gram") if getattr(side, name).numel()]
        self.leaves = [getattr(side, name).requires_grad_() for name in self.names]
        self.side = side
        self.sums: dict[str, Tensor] = {}

    def add(self, grads: tuple[Tensor | None, ...]) -> None:
        for name, grad in zip(self.names, grads, strict=True):
            if grad is not None:
                self.sums[name] = self.sums[name] + grad if name in self.sums else grad

    def to_rows(self, rows: Tensor, chunk: _Chunk) -> Tensor:
        """Gradient (rows, D) of the chunk's packed rows through the squares, the mean and the Gram matrices."""
        x = _padded(rows.to(chunk.size.dtype), chunk)  # (X, n, D)
        out = torch.zeros_like(x)
        if "square" in self.sums:
            out += 2 * self.sums["square"][..., None] * x
        if "mean_square" in self.sums:
            per_item = (2 * self.sums["mean_square"] / chunk.size**2)[:, None, None]
            out += per_item * _sums(x, self.side.square.detach()).to(x.dtype)[:, None]
        if "gram" in self.sums:
            gram = self.sums["gram"]
            out += (gram + gram.mT) @ x
        out = out.flatten(0, 1)
        return out if chunk.unpad is None else out.index_select(0, chunk.unpad)


def pair_score_backward(
    grad: Tensor,
    regions: Tensor,
    words: Tensor,
    region_offsets: Tensor,
    word_offsets: Tensor,
    scalars: Tensor,
    config: list[int],
    precision: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for regions, words and scalars, in their dtypes; S is recomputed tile by tile."""
    dtype, device = accumulator(precision), regions.device
    image_chunks, caption_chunks = _cut(region_offsets, word_offsets, _BACKWARD_TILE, device, dtype)
    leaf = scalars.detach().to(device, dtype, copy=True).requires_grad_()
    image_needs, caption_needs = _needs(read_terms(leaf.detach(), config))
    d_regions, d_words = (torch.zeros(x.shape, device=device, dtype=dtype) for x in (regions, words))
    d_scalars = torch.zeros(len(leaf), device=device, dtype=torch.float64)
    captions = [_SideGradient(_side(_rows(words, c, precision), c, dtype, **caption_needs)) for c in caption_chunks]
    for image_chunk in image_chunks:
        v = _rows(regions, image_chunk, precision)
        image = _SideGradient(_side(v, image_chunk, dtype, **image_needs))
        d_v = torch.zeros(v.shape, device=device, dtype=dtype)
        for caption_chunk, caption in zip(caption_chunks, captions, strict=True):
            w = _rows(words, caption_chunk, precision)
            s = _tile(w, v, caption_chunk, image_chunk).requires_grad_()
            with recording():
                out = score_tile(s, image.side, caption.side, read_terms(leaf, config))
                leaves = [s, leaf, *image.leaves, *caption.leaves]
                upstream = grad[image_chunk.items[:, None], caption_chunk.items].to(dtype)
                ds, d_leaf, *d_sides = torch.autograd.grad(out, leaves, upstream, allow_unused=True)
            image.add(tuple(d_sides[: len(image.names)]))
            caption.add(tuple(d_sides[len(image.names) :]))
            d_scalars += d_leaf
            packed = _untile(ds, caption_chunk, image_chunk)
            d_words[caption_chunk.take] += inner_products_vjp(packed, v)
            d_v += inner_products_vjp(packed.T, w)
        d_regions[image_chunk.take] += d_v + image.to_rows(v, image_chunk)
    for caption_chunk, caption in zip(caption_chunks, captions, strict=True):
        d_words[caption_chunk.take] += caption.to_rows(_rows(words, caption_chunk, precision), caption_chunk)
    return d_regions.to(regions.dtype), d_words.to(words.dtype), d_scalars.to(scalars.device, scalars.dtype)
