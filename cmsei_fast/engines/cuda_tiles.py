"""Scores of 16-bit features by one kernel that multiplies and scores: with TMA and wgmma on Hopper, else with mma.sync.

The Hopper kernel also multiplies the 8-bit numbers of ``"float8"`` and ``"int8"``, and scales the products by the
scales of their rows.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cmsei_fast.engines import cuda_pair, eight_bits
from cmsei_fast.engines.cuda_sides import Side, layout, make_side
from cmsei_fast.engines.device_cache import device_cache
from cmsei_fast.engines.terms import PRECISIONS

_ROW_ALIGNMENT = 16  # bytes: the kernels need row addresses and strides that are multiples of it
# The largest width for which a sum of products of "int8" fits 32 bits.
MOST_WHOLE = (2**31 - 1) // 127**2
_TYPES = {"bfloat16": 0, "float16": 1, "float8": 2, "int8": 3}  # csrc/cuda/tile_plan.h


class _LargeItems(NamedTuple):
    """Items too large for a tile: their indices and those of their packed rows (on the device), their offsets (CPU)."""

    items: Tensor
    rows: Tensor
    offsets: Tensor


class _Plan(NamedTuple):
    """Tiles, int32 (tiles, 7) on the device, and the items that are in none."""

    image_tiles: Tensor
    caption_tiles: Tensor
    large_images: _LargeItems | None
    large_captions: _LargeItems | None


class Choice(NamedTuple):
    """The kernel that computes scores, ``"hopper"``, ``"mma"`` or ``"library"``, and why it is not an earlier one."""

    kernel: str
    reason: str


def choose(module: ModuleType, precision: str, capability: tuple[int, int], shared: int) -> Choice:
    """The kernel for a precision on a GPU of this compute capability, with ``shared`` bytes per multiprocessor.

    ``"library"`` stands for :mod:`cmsei_fast.engines.cuda_pair`: a library multiplies a chunk, a kernel scores it. For
    a precision of 8 bits, kernels other than ``"hopper"`` take the rounded features in bfloat16.
    """
    if precision not in _TYPES:
        return Choice("library", f"features are {precision}, not of 16 bits")
    if capability != (9, 0):
        reason = "the GPU's compute capability is {}.{}, not 9.0".format(*capability)
    elif "90a" not in module.architectures.split(";"):
        reason = "the module was built without the architecture 90a"
    else:
        return Choice("hopper", "")
    if shared < module.ampere_bytes():
        return Choice("library", f"{reason}, and a multiprocessor has {shared} bytes of shared memory")
    return Choice("mma", reason)


def _large_items(bounds: np.ndarray, items: np.ndarray, device: str) -> _LargeItems | None:
    if len(items) == 0:
        return None
    rows = np.concatenate([np.arange(bounds[i], bounds[i + 1]) for i in items])
    offsets = np.concatenate([[0], np.cumsum(np.diff(bounds)[items])])
    return _LargeItems(torch.from_numpy(items).to(device), torch.from_numpy(rows).to(device), torch.from_numpy(offsets))


@device_cache(32)
def _plan(
    module: ModuleType, config: tuple[int, ...], hopper: bool, images: bytes, captions: bytes, device: str
) -> _Plan:
    """The tiles, cached because copying them to a GPU waits for the GPU and cannot be captured in a graph."""
    side_offsets = [np.frombuffer(x, dtype=np.int64) for x in (images, captions)]
    tiles: list[Tensor] = []
    large_items: list[_LargeItems | None] = []
    for offsets, item_tiles in zip(
        side_offsets, module.pair_tiles(config, hopper, *(x.tolist() for x in side_offsets)), strict=True
    ):
        table = np.array(item_tiles, dtype=np.int32).reshape(-1, 7)
        changes = np.zeros(len(offsets), dtype=np.int64)  # +1 where a tile begins, -1 behind its end
        np.add.at(changes, table[:, 0], 1)
        np.add.at(changes, table[:, 1], -1)
        tiles.append(torch.from_numpy(table).to(device))
        large_items.append(_large_items(offsets, np.flatnonzero(np.cumsum(changes[:-1]) == 0), device))
    return _Plan(tiles[0], tiles[1], large_items[0], large_items[1])


def _aligned_rows(rows: Tensor) -> Tensor:
    """The rows (rows, D) as the kernels take them: aligned to 16 bytes, and padded with zeros to a multiple of that."""
    multiple = _ROW_ALIGNMENT // rows.element_size()
    if rows.shape[1] % multiple:
        return torch.nn.functional.pad(rows, (0, -rows.shape[1] % multiple))
    if (
        rows.stride(1) != 1
        or rows.stride(0) < rows.shape[1]
        or rows.stride(0) % multiple
        or rows.data_ptr() % _ROW_ALIGNMENT
    ):
        return rows.clone(memory_format=torch.contiguous_format)
    return rows


class _Operand(NamedTuple):
    """What the kernel multiplies: rows (rows, D) of 16-bit numbers, or of 8-bit numbers with a scale for each row."""

    rows: Tensor
    scales: Tensor | None

    def launch_argument(self, module: ModuleType) -> Any:
        """The operand in the form that a kernel launch takes."""
        return module.TileRows(
            data=self.rows.data_ptr(),
            stride=self.rows.stride(0) * self.rows.element_size(),
            rows=self.rows.shape[0],
            scales=0 if self.scales is None else self.scales.data_ptr(),
        )


def _operand(rows: Tensor, precision: str) -> tuple[_Operand, Tensor]:
    """The rounded rows as the kernel multiplies them, and the same as 16-bit numbers."""
    if precision not in eight_bits.FORMATS:
        rows = _aligned_rows(rows.to(PRECISIONS[precision]))
        return _Operand(rows, None), rows
    rounded = eight_bits.quantise(rows, precision)
    return _Operand(_aligned_rows(rounded.numbers.view(torch.uint8)), rounded.scales), eight_bits.dequantised(rounded)


def _items(module: ModuleType, side: Side) -> Any:
    return module.PairItems(
        count=len(side.means),
        offsets=side.layout.offsets.data_ptr(),
        gram_offsets=side.layout.gram_offsets.data_ptr(),
        lengths=side.lengths.data_ptr(),
        means=side.means.data_ptr(),
        grams=side.grams.data_ptr(),
    )


def pair_score(
    module: ModuleType,
    kernel: str,
    regions: Tensor,
    words: Tensor,
    region_offsets: Tensor,
    word_offsets: Tensor,
    scalars: Tensor,
    config: list[int],
    precision: str,
) -> Tensor:
    """Scores (N, M) like :func:`cmsei_fast.engines.cuda_pair.pair_score`, by the kernel ``"hopper"`` or ``"mma"``.

    Only ``"hopper"`` takes a precision of 8 bits. Pairs with an image or a caption that is too large for a tile are
    left to that function.
    """
    (region_operand, regions), (word_operand, words) = (_operand(x, precision) for x in (regions, words))
    type_code, precision = _TYPES[precision], "bfloat16" if precision in eight_bits.FORMATS else precision
    inputs = regions, words, region_offsets, word_offsets
    options = tuple(config[: cuda_pair.OPTIONS])
    images, captions = (x.numpy().tobytes() for x in (region_offsets, word_offsets))
    plan = _plan(module, options, kernel == "hopper", images, captions, str(regions.device))
    if len(plan.image_tiles) == 0 or len(plan.caption_tiles) == 0:
        return cuda_pair.pair_score(module, *inputs, scalars, config, precision)
    sides = [
        make_side(x, layout(offsets, len(x), x.device), precision)
        for x, offsets in ((regions, region_offsets), (words, word_offsets))
    ]
    scores = scalars.new_empty(len(region_offsets) - 1, len(word_offsets) - 1)
    call = module.TileCall(
        type=type_code,
        width=region_operand.rows.shape[1],
        config=options,
        scalars=scalars.data_ptr(),
        images=_items(module, sides[0]),
        captions=_items(module, sides[1]),
        regions=region_operand.launch_argument(module),
        words=word_operand.launch_argument(module),
        image_tiles=plan.image_tiles.data_ptr(),
        image_tile_count=len(plan.image_tiles),
        caption_tiles=plan.caption_tiles.data_ptr(),
        caption_tile_count=len(plan.caption_tiles),
        scores=scores.data_ptr(),
        scores_stride=scores.stride(0),
    )
    stream = torch.cuda.current_stream(scores.device).cuda_stream if scores.is_cuda else 0
    launch = module.hopper_scores if kernel == "hopper" else module.ampere_scores
    launch(call, scores.device.index or 0, stream)
    score_rest = functools.partial(cuda_pair.pair_score, module, scalars=scalars, config=config, precision=precision)
    if (large := plan.large_images) is not None:
        scores[large.items] = score_rest(regions[large.rows], words, large.offsets, word_offsets)
    if (large := plan.large_captions) is not None:
        scores[:, large.items] = score_rest(regions, words[large.rows], region_offsets, large.offsets)
    return scores
