"""Scores of 16-bit features by one kernel that multiplies and scores: with TMA and wgmma on Hopper, else with mma.sync.

The Hopper kernel also multiplies the 8-bit numbers of precisions ``"float8"`` and ``"int8"``, and then by the scales of
their rows.
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

_ALIGNED = 16  # bytes that the kernels want rows to be a multiple of
# Depth to which 32 bits hold a sum of products of "int8".
MOST_WHOLE = (2**31 - 1) // 127**2
_TYPES = {"bfloat16": 0, "float16": 1, "float8": 2, "int8": 3}  # csrc/cuda/tile_plan.h


class _Rest(NamedTuple):
    """Items too large for a tile: which, and where their packed rows lie, on the device; their offsets, on the CPU."""

    items: Tensor
    rows: Tensor
    offsets: Tensor


class _Plan(NamedTuple):
    """Tiles on the device, int32 (count, 7), and the items in none."""

    image_tiles: Tensor
    caption_tiles: Tensor
    image_rest: _Rest | None
    caption_rest: _Rest | None


class Choice(NamedTuple):
    """Which kernel computes scores, ``"hopper"``, ``"mma"`` or ``"library"``, and why none that stands before it."""

    kernel: str
    reason: str


def choose(module: ModuleType, precision: str, capability: tuple[int, int], shared: int) -> Choice:
    """The kernel for a precision on a GPU of this compute capability and shared memory of a multiprocessor, in bytes.

    ``"library"`` is that of :mod:`cmsei_fast.engines.cuda_pair`: a library's product of a chunk, then a kernel over it.
    For one of 8 bits another than ``"hopper"`` is that of the rounded features in bfloat16.
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


def _rest(bounds: np.ndarray, items: np.ndarray, device: str) -> _Rest | None:
    if len(items) == 0:
        return None
    rows = np.concatenate([np.arange(bounds[i], bounds[i + 1]) for i in items])
    offsets = np.concatenate([[0], np.cumsum(np.diff(bounds)[items])])
    return _Rest(torch.from_numpy(items).to(device), torch.from_numpy(rows).to(device), torch.from_numpy(offsets))


@device_cache(32)
def _plan(
    module: ModuleType, config: tuple[int, ...], hopper: bool, images: bytes, captions: bytes, device: str
) -> _Plan:
    """Cached, because copying it to a GPU waits for the GPU and cannot be captured in a graph."""
    offsets = [np.frombuffer(x, dtype=np.int64) for x in (images, captions)]
    tiles: list[Tensor] = []
    rest: list[_Rest | None] = []
    for bounds, found in zip(offsets, module.pair_tiles(config, hopper, *(x.tolist() for x in offsets)), strict=True):
        table = np.array(found, dtype=np.int32).reshape(-1, 7)
        steps = np.zeros(len(bounds), dtype=np.int64)  # +1 where a tile begins, -1 behind its end
        np.add.at(steps, table[:, 0], 1)
        np.add.at(steps, table[:, 1], -1)
        tiles.append(torch.from_numpy(table).to(device))
        rest.append(_rest(bounds, np.flatnonzero(np.cumsum(steps[:-1]) == 0), device))
    return _Plan(tiles[0], tiles[1], rest[0], rest[1])


def _loadable(rows: Tensor) -> Tensor:
    """The rows (rows, D) as the kernels take them: on 16-byte boundaries, zeros behind other widths."""
    numbers = _ALIGNED // rows.element_size()
    if rows.shape[1] % numbers:
        return torch.nn.functional.pad(rows, (0, -rows.shape[1] % numbers))
    if rows.stride(1) != 1 or rows.stride(0) < rows.shape[1] or rows.stride(0) % numbers or rows.data_ptr() % _ALIGNED:
        return rows.clone(memory_format=torch.contiguous_format)
    return rows


class _Operand(NamedTuple):
    """What the kernel multiplies: rows (rows, D) of 16 bits or of 8, whose scales (rows,) it applies."""

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
    """The rows rounded: as the kernel multiplies them, and as numbers of 16 bits."""
    if precision not in eight_bits.FORMATS:
        rows = _loadable(rows.to(PRECISIONS[precision]))
        return _Operand(rows, None), rows
    found = eight_bits.quantise(rows, precision)
    return _Operand(_loadable(found.numbers.view(torch.uint8)), found.scales), eight_bits.dequantised(found)


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
    """Scores (N, M) as :func:`cmsei_fast.engines.cuda_pair.pair_score`, by the kernel ``"hopper"`` or ``"mma"``.

    A precision of 8 bits is the kernel ``"hopper"``'s.

    Pairs whose image or caption is too large for a tile are left to that function.
    """
    (region_operand, regions), (word_operand, words) = (_operand(x, precision) for x in (regions, words))
    kind, precision = _TYPES[precision], "bfloat16" if precision in eight_bits.FORMATS else precision
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
    out = scalars.new_empty(len(region_offsets) - 1, len(word_offsets) - 1)
    call = module.TileCall(
        type=kind,
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
        scores=out.data_ptr(),
        scores_stride=out.stride(0),
    )
    stream = torch.cuda.current_stream(out.device).cuda_stream if out.is_cuda else 0
    launch = module.hopper_scores if kernel == "hopper" else module.ampere_scores
    launch(call, out.device.index or 0, stream)
    rest = functools.partial(cuda_pair.pair_score, module, scalars=scalars, config=config, precision=precision)
    if (some := plan.image_rest) is not None:
        out[some.items] = rest(regions[some.rows], words, some.offsets, word_offsets)
    if (some := plan.caption_rest) is not None:
        out[:, some.items] = rest(regions, words[some.rows], region_offsets, some.offsets)
    return out
