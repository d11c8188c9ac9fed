"""Gradients of the pair score by Triton kernels: the products again, chunk by chunk, and two more for the gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cmsei_fast.engines.products import inner_products, inner_products_vjp
from cmsei_fast.engines.terms import accumulator
from cmsei_fast.engines.triton_launch import Launch, architecture, gradient_stages, launch, pass_warps, turned
from cmsei_fast.engines.triton_pair import BACKWARD_CHUNK, pass_precision, passes, sides
from cmsei_fast.engines.triton_sides import (
    Chunk,
    Layout,
    Run,
    Side,
    kernel_dtype,
    product_precision,
    width_block,
)

_SLOTS = 64  # more than the scalars of two directions of the most steps


@dataclass(frozen=True)
class SideGradient:
    """What belongs to the items of a side, or of a chunk for each of several parts (then with a leading axis).

    Args:
        squares: (…, rows) gradients of x·x.
        means: (…, items) gradients of |mean row|².
        grams: (…, Σ block²) gradients of the Gram matrices; (…, 0) where they do not count.
    """

    squares: Tensor
    means: Tensor
    grams: Tensor

    @classmethod
    def zeros(cls, parts: tuple[int, ...], rows: int, items: int, grams: int, like: Tensor) -> SideGradient:
        """All zero, in like's dtype and on its device."""
        return cls(*(like.new_zeros(*parts, n) for n in (rows, items, grams)))

    @classmethod
    def for_chunk(cls, parts: int, chunk: Chunk, has_gram: bool, like: Tensor) -> SideGradient:
        """Zeros for a chunk, ``parts`` times."""
        sizes = [x.stop - x.start for x in (chunk.rows, chunk.items, chunk.grams)]
        return cls.zeros((parts,), sizes[0], sizes[1], sizes[2] if has_gram else 0, like)

    @property
    def arguments(self) -> tuple[Tensor | int, ...]:
        """The three arrays and their row strides, in the kernel's order."""
        return (
            self.squares,
            self.squares.shape[-1],
            self.means,
            self.means.shape[-1],
            self.grams,
            self.grams.shape[-1],
        )

    def add(self, chunk: Chunk, parts: SideGradient) -> None:
        """Adds the sum of a chunk's parts, always in the same order."""
        self.squares[chunk.rows] += parts.squares.sum(0)
        self.means[chunk.items] += parts.means.sum(0)
        if parts.grams.numel():
            self.grams[chunk.grams] += parts.grams.sum(0)

    def to_rows(self, side: Side, d_rows: Tensor, precision: str) -> None:
        """Adds to d_rows (rows, D) what comes back through squares, means and Gram matrices."""
        from cmsei_fast.kernels.gram import item_grams_vjp

        width = side.rows.shape[1]
        for chunk in side.layout.chunks:
            for run in chunk.runs:
                block = width_block(width, run.block)
                item_grams_vjp[run.size, -(-width // block)](
                    side.rows,
                    side.rows.stride(0),
                    width,
                    side.layout.order,
                    run.first,
                    side.layout.offsets,
                    run.gram,
                    self.grams,
                    self.squares,
                    self.means,
                    d_rows,
                    B=run.block,
                    BD=block,
                    HAS_GRAM=self.grams.numel() > 0,
                    WIDE=kernel_dtype(d_rows.dtype),
                    PRECISION=product_precision(precision, exact=True),
                    num_warps=4 if run.block < 128 else 8,
                )


class _Launch(NamedTuple):
    """One launch on a chunk: runs of one padded size each, and where its parts begin."""

    images: Run
    captions: Run
    how: Launch
    per: int
    grid: tuple[int, int]
    split: int  # its first part of the images' gradients
    program: int  # its first row of the scalars' gradients
    splits: int  # parts up to and with this launch
    programs: int

    def run(
        self,
        arrays: tuple[Tensor | int, ...],
        captions: tuple[Side, Chunk, SideGradient],
        images: tuple[Side, Chunk, SideGradient],
        scalars: Tensor,
        numbers: Tensor,
        options: dict[str, Any],
    ) -> None:
        """One pass; ``arrays`` are inner products, their gradients and the scores' gradients, with strides."""
        from cmsei_fast.kernels.pair_score_vjp import pair_gradients

        (own_w, chunk_w, parts_w), (own_v, chunk_v, parts_v) = captions, images
        pair_gradients[self.grid](
            *arrays,
            own_w.layout.order,
            own_v.layout.order,
            self.captions.first,
            self.captions.size,
            self.images.first,
            chunk_w.rows.start,
            chunk_v.rows.start,
            chunk_w.items.start,
            chunk_v.items.start,
            self.captions.gram,
            self.images.gram,
            self.captions.gram - chunk_w.grams.start,
            self.images.gram - chunk_v.grams.start,
            self.split,
            self.program,
            *own_w.arguments,
            *own_v.arguments,
            scalars,
            *parts_w.arguments,
            *parts_v.arguments,
            numbers,
            C=self.how.captions,
            BL=self.captions.block,
            BR=self.images.block,
            PER=self.per,
            SLOTS=_SLOTS,
            TURNED=turned("pair_gradients", architecture(scalars.device), self.captions.block, options),
            **options,
            num_warps=pass_warps("pair_gradients", self.how, options["QUERY"], options["PRECISION"]),
            num_stages=gradient_stages(options["QUERY"]),
        )


def backward_passes(config: list[int]) -> list[dict[str, Any]]:
    """The passes of the gradients: where words ask in several steps, the cross-level terms have one of their own.

    Together they need more registers than there are.
    """
    out = []
    for each in passes(config):
        options = {k: x for k, x in each.items() if k != "ADD"}
        if each["QUERY"] == 1 and each["STEPS"] > 1 and each["NORM"] and (each["LEVEL"] or each["ALIGN"]):
            out += [options | {"LEVEL": False, "ALIGN": False}, options | {"NORM": "", "AGGREGATE": "", "STEPS": 1}]
        else:
            out.append(options)
    return out


def _launches(images: tuple[Run, ...], captions: tuple[Run, ...]) -> list[_Launch]:
    """A launch for each pair of runs. Launches on the same captions share their parts: their images differ."""
    out: list[_Launch] = []
    split = program = 0
    for own in captions:
        most = 0
        for other in images:
            how = launch("pair_gradients", own.block, other.block)
            per = how.per(own.size, other.size)
            grid = (other.size, -(-own.size // (how.captions * per)))
            most = max(most, grid[1])
            first, program = program, program + grid[0] * grid[1]
            out.append(_Launch(other, own, how, per, grid, split, first, split + most, program))
        split += most
    return out


def _grams_count(options: list[dict[str, Any]]) -> tuple[bool, bool]:
    """Whether the Gram matrices of the images and of the captions have a gradient."""
    images = any(x["NORM"] if x["QUERY"] == 1 else x["LEVEL"] for x in options)
    captions = any(x["NORM"] if x["QUERY"] == 2 else x["LEVEL"] for x in options)
    return bool(images), bool(captions)


def _whole(layout: Layout, has_gram: bool, like: Tensor) -> SideGradient:
    return SideGradient.zeros((), layout.rows, len(layout.order), layout.grams if has_gram else 0, like)


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
    """Gradients of regions, words and scalars, in the accumulator's dtype (float64 for the scalars).

    Arguments as ``triton_pair.pair_score`` takes them; grad (N, M).
    """
    images, captions = sides(regions, words, region_offsets, word_offsets, precision, BACKWARD_CHUNK)
    wide = accumulator(precision)
    grad = grad.to(wide).contiguous()
    d_regions, d_words = (torch.zeros(x.shape, dtype=wide, device=x.device) for x in (regions, words))
    options = backward_passes(config)
    count_v, count_w = _grams_count(options)
    d_v, d_w = _whole(images.layout, count_v, d_regions), _whole(captions.layout, count_w, d_words)
    d_scalars = torch.zeros(len(scalars), dtype=torch.float64, device=regions.device)
    for image_chunk in images.layout.chunks:
        v = images.rows[image_chunk.rows]
        for caption_chunk in captions.layout.chunks:
            w = captions.rows[caption_chunk.rows]
            s = inner_products(w, v)
            # bfloat16 has the range of float32: rounding costs a relative 2⁻⁹, as autograd's own does.
            ds = torch.zeros_like(s, dtype=w.dtype if w.dtype == torch.bfloat16 else wide)
            launches = _launches(image_chunk.runs, caption_chunk.runs)
            parts_v = SideGradient.for_chunk(launches[-1].splits, image_chunk, count_v, d_regions)
            count = image_chunk.items.stop - image_chunk.items.start
            parts_w = SideGradient.for_chunk(count, caption_chunk, count_w, d_words)
            numbers = d_words.new_zeros(launches[-1].programs, _SLOTS)
            for each in options:
                for at in launches:
                    at.run(
                        (s, s.stride(0), ds, grad, grad.stride(0)),
                        (captions, caption_chunk, parts_w),
                        (images, image_chunk, parts_v),
                        scalars,
                        numbers,
                        each | {"PRECISION": pass_precision(each, precision)},
                    )
            d_v.add(image_chunk, parts_v)
            d_w.add(caption_chunk, parts_w)
            d_scalars += numbers.sum(0, dtype=torch.float64)[: len(scalars)]
            d_words[caption_chunk.rows] += inner_products_vjp(ds, v)
            d_regions[image_chunk.rows] += inner_products_vjp(ds.T, w)
    d_v.to_rows(images, d_regions, precision)
    d_w.to_rows(captions, d_words, precision)
    return d_regions, d_words, d_scalars
