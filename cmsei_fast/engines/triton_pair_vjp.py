"""Gradients of the pair score by Triton kernels.

For each chunk a library computes the inner products again, the kernel their gradients, and two more library products
the gradients of the features.
"""

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
    """Gradients of one side's lengths, means and Gram matrices; for a chunk, partial sums on a leading axis.

    Args:
        squares: (…, rows) gradients of the squared lengths of the rows.
        means: (…, items) gradients of the squared lengths of the mean rows.
        grams: (…, Σ block²) gradients of the Gram matrices; (…, 0) if they have none.
    """

    squares: Tensor
    means: Tensor
    grams: Tensor

    @classmethod
    def zeros(cls, parts: tuple[int, ...], rows: int, items: int, grams: int, like: Tensor) -> SideGradient:
        """Zeros in the dtype and on the device of ``like``."""
        return cls(*(like.new_zeros(*parts, n) for n in (rows, items, grams)))

    @classmethod
    def for_chunk(cls, parts: int, chunk: Chunk, has_gram: bool, like: Tensor) -> SideGradient:
        """Zeros for ``parts`` partial sums of a chunk."""
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
        """Adds a chunk's partial sums, always in the same order."""
        self.squares[chunk.rows] += parts.squares.sum(0)
        self.means[chunk.items] += parts.means.sum(0)
        if parts.grams.numel():
            self.grams[chunk.grams] += parts.grams.sum(0)

    def to_rows(self, side: Side, d_rows: Tensor, precision: str) -> None:
        """Adds the gradients that pass through lengths, means and Gram matrices to d_rows (rows, D)."""
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
                    run.gram_start,
                    self.grams,
                    self.squares,
                    self.means,
                    d_rows,
                    B=run.block,
                    BD=block,
                    HAS_GRAM=self.grams.numel() > 0,
                    ACC_TYPE=kernel_dtype(d_rows.dtype),
                    PRECISION=product_precision(precision, exact=True),
                    num_warps=4 if run.block < 128 else 8,
                )


class _Launch(NamedTuple):
    """One launch on a chunk: a run of images and one of captions, and where its partial sums are."""

    images: Run
    captions: Run
    plan: Launch
    groups: int
    grid: tuple[int, int]
    first_part: int  # of the images' gradients
    first_program: int  # row of the scalars' gradients
    n_parts: int  # up to and including this launch
    n_programs: int  # likewise

    def run(
        self,
        arrays: tuple[Tensor | int, ...],
        captions: tuple[Side, Chunk, SideGradient],
        images: tuple[Side, Chunk, SideGradient],
        scalars: Tensor,
        d_scalars: Tensor,
        options: dict[str, Any],
    ) -> None:
        """One pass; ``arrays`` are the kernel's first arguments: products, their gradients, the scores' gradients."""
        from cmsei_fast.kernels.pair_score_vjp import pair_gradients

        (side_w, chunk_w, parts_w), (side_v, chunk_v, parts_v) = captions, images
        pair_gradients[self.grid](
            *arrays,
            side_w.layout.order,
            side_v.layout.order,
            self.captions.first,
            self.captions.size,
            self.images.first,
            chunk_w.rows.start,
            chunk_v.rows.start,
            chunk_w.items.start,
            chunk_v.items.start,
            self.captions.gram_start,
            self.images.gram_start,
            self.captions.gram_start - chunk_w.grams.start,
            self.images.gram_start - chunk_v.grams.start,
            self.first_part,
            self.first_program,
            *side_w.arguments,
            *side_v.arguments,
            scalars,
            *parts_w.arguments,
            *parts_v.arguments,
            d_scalars,
            C=self.plan.captions,
            BL=self.captions.block,
            BR=self.images.block,
            GROUPS_PER_PROGRAM=self.groups,
            SLOTS=_SLOTS,
            TURNED=turned("pair_gradients", architecture(scalars.device), self.captions.block, options),
            **options,
            num_warps=pass_warps("pair_gradients", self.plan, options["QUERY"], options["PRECISION"]),
            num_stages=gradient_stages(options["QUERY"]),
        )


def backward_passes(config: list[int]) -> list[dict[str, Any]]:
    """The kernels' compile-time options of each backward pass.

    The cross-level terms of word queries with several steps have a pass of their own, because one pass for both would
    need too many registers.
    """
    all_options = []
    for forward in passes(config):
        options = {k: x for k, x in forward.items() if k != "ADD"}
        if (
            forward["QUERY"] == 1
            and forward["STEPS"] > 1
            and forward["NORM"]
            and (forward["LEVEL"] or forward["ALIGN"])
        ):
            all_options += [
                options | {"LEVEL": False, "ALIGN": False},
                options | {"NORM": "", "AGGREGATE": "", "STEPS": 1},
            ]
        else:
            all_options.append(options)
    return all_options


def _launches(images: tuple[Run, ...], captions: tuple[Run, ...]) -> list[_Launch]:
    """A launch for each pair of runs. Launches on the same captions share parts, because their images differ."""
    launches: list[_Launch] = []
    first_part = n_programs = 0
    for caption_run in captions:
        run_parts = 0
        for image_run in images:
            plan = launch("pair_gradients", caption_run.block, image_run.block)
            groups = plan.groups_per_program(caption_run.size, image_run.size)
            grid = (image_run.size, -(-caption_run.size // (plan.captions * groups)))
            run_parts = max(run_parts, grid[1])
            first_program, n_programs = n_programs, n_programs + grid[0] * grid[1]
            launches.append(
                _Launch(
                    image_run,
                    caption_run,
                    plan,
                    groups,
                    grid,
                    first_part,
                    first_program,
                    first_part + run_parts,
                    n_programs,
                )
            )
        first_part += run_parts
    return launches


def _grams_have_gradients(options: list[dict[str, Any]]) -> tuple[bool, bool]:
    """Whether the Gram matrices of the images and of the captions have a gradient."""
    images = any(x["NORM"] if x["QUERY"] == 1 else x["LEVEL"] for x in options)
    captions = any(x["NORM"] if x["QUERY"] == 2 else x["LEVEL"] for x in options)
    return bool(images), bool(captions)


def _zeros_for_side(layout: Layout, has_gram: bool, like: Tensor) -> SideGradient:
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
    acc_dtype = accumulator(precision)
    grad = grad.to(acc_dtype).contiguous()
    d_regions, d_words = (torch.zeros(x.shape, dtype=acc_dtype, device=x.device) for x in (regions, words))
    all_options = backward_passes(config)
    has_gram_v, has_gram_w = _grams_have_gradients(all_options)
    d_v, d_w = (
        _zeros_for_side(images.layout, has_gram_v, d_regions),
        _zeros_for_side(captions.layout, has_gram_w, d_words),
    )
    d_scalars = torch.zeros(len(scalars), dtype=torch.float64, device=regions.device)
    for image_chunk in images.layout.chunks:
        region_rows = images.rows[image_chunk.rows]
        for caption_chunk in captions.layout.chunks:
            word_rows = captions.rows[caption_chunk.rows]
            products = inner_products(word_rows, region_rows)
            # bfloat16 has the range of float32. Its rounding costs a relative 2⁻⁹, as in autograd's own gradients.
            d_products = torch.zeros_like(
                products, dtype=word_rows.dtype if word_rows.dtype == torch.bfloat16 else acc_dtype
            )
            launches = _launches(image_chunk.runs, caption_chunk.runs)
            parts_v = SideGradient.for_chunk(launches[-1].n_parts, image_chunk, has_gram_v, d_regions)
            n_images = image_chunk.items.stop - image_chunk.items.start
            parts_w = SideGradient.for_chunk(n_images, caption_chunk, has_gram_w, d_words)
            d_scalar_sums = d_words.new_zeros(launches[-1].n_programs, _SLOTS)
            for options in all_options:
                for chunk_launch in launches:
                    chunk_launch.run(
                        (products, products.stride(0), d_products, grad, grad.stride(0)),
                        (captions, caption_chunk, parts_w),
                        (images, image_chunk, parts_v),
                        scalars,
                        d_scalar_sums,
                        options | {"PRECISION": pass_precision(options, precision)},
                    )
            d_v.add(image_chunk, parts_v)
            d_w.add(caption_chunk, parts_w)
            d_scalars += d_scalar_sums.sum(0, dtype=torch.float64)[: len(scalars)]
            d_words[caption_chunk.rows] += inner_products_vjp(d_products, region_rows)
            d_regions[image_chunk.rows] += inner_products_vjp(d_products.T, word_rows)
    d_v.to_rows(images, d_regions, precision)
    d_w.to_rows(captions, d_words, precision)
    return d_regions, d_words, d_scalars
