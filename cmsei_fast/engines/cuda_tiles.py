"""Scores of 16-bit features by one kernel that multiplies and scores: by TMA and wgmma on Hopper, else by mma.sync."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cmsei_fast.engines import cuda_pair
from cmsei_fast.engines.cuda_sides import Side, layout, make_side
from cmsei_fast.engines.terms import PRECISIONS

_ALIGNED = 8  # numbers of 16 bits that make the 16 bytes which the kernels want rows to be a multiple of


class _Plan(NamedTuple):
    """Tiles on the device, int32 (count, 3), and the items in none because they are too large, on the CPU."""

    image_tiles: Tensor
    caption_tiles: Tensor
    image_rest: Tensor
    caption_rest: Tensor


class Choice(NamedTuple):
    """Which kernel computes scores, ``"hopper"``, ``"mma"`` or ``"library"``, and why none that stands before it."""

    kernel: str
    reason: str


def choose(module: ModuleType, precision: str, capability: tuple[int, int], shared: int) -> Choice:
    """The kernel for a precision on a GPU of this compute capability and shared memory of a multiprocessor, in bytes.

    ``"library"`` is that of :mod:`cmsei_fast.engines.cuda_pair`: a library's product of a chunk, then a kernel over it.
    """
    if precision not in ("bfloat16", "float16"):
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


@functools.lru_cache(maxsize=32)
def _plan(
    module: ModuleType, config: tuple[int, ...], hopper: bool, images: bytes, captions: bytes, device: str
) -> _Plan:
    """Cached, because copying it to a GPU waits for the GPU."""
    offsets = [np.frombuffer(x, dtype=np.int64) for x in (images, captions)]
    tiles, rest = [], []
    for bounds, found in zip(offsets, module.pair_tiles(config, hopper, *(x.tolist() for x in offsets)), strict=True):
        table = np.array(found, dtype=np.int32).reshape(-1, 3)
        steps = np.zeros(len(bounds), dtype=np.int64)  # +1 where a tile begins, -1 behind its end
        np.add.at(steps, table[:, 0], 1)
        np.add.at(steps, table[:, 1], -1)
        tiles.append(torch.from_numpy(table).to(device))
        rest.append(torch.from_numpy(np.flatnonzero(np.cumsum(steps[:-1]) == 0)))
    return _Plan(*tiles, *rest)


def _loadable(rows: Tensor, precision: str) -> Tensor:
    """The rows (rows, D) rounded, as the kernels take them: on 16-byte boundaries, zeros behind other widths."""
    rows = rows.to(PRECISIONS[precision])
    if rows.shape[1] % _ALIGNED:
        return torch.nn.functional.pad(rows, (0, -rows.shape[1] % _ALIGNED))
    if rows.stride(1) != 1 or rows.stride(0) < rows.shape[1] or rows.stride(0) % _ALIGNED or rows.data_ptr() % 16:
        return rows.clone(memory_format=torch.contiguous_format)
    return rows


def _items(module: ModuleType, side: Side) -> Any:
    return module.PairItems(
        count=len(side.means),
        offsets=side.layout.offsets.data_ptr(),
        gram_offsets=side.layout.gram_offsets.data_ptr(),
        lengths=side.lengths.data_ptr(),
        means=side.means.data_ptr(),
        grams=side.grams.data_ptr(),
    )


def _rows(module: ModuleType, rows: Tensor) -> Any:
    return module.TileRows(data=rows.data_ptr(), stride=rows.stride(0) * rows.element_size(), rows=rows.shape[0])


def _select(rows: Tensor, offsets: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """Packed rows and offsets of some items."""
    first, lengths = offsets[items], offsets.diff()[items]
    bounds = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    places = torch.arange(int(bounds[-1]), device="cpu") + (first - bounds[:-1]).repeat_interleave(lengths)
    return rows[places.to(rows.device)], bounds


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

    Pairs whose image or caption is too large for a tile are left to that function.
    """
    inputs = regions, words, region_offsets, word_offsets
    options = tuple(config[: cuda_pair.OPTIONS])
    bounds = (x.numpy().tobytes() for x in (region_offsets, word_offsets))
    plan = _plan(module, options, kernel == "hopper", *bounds, str(regions.device))
    if len(plan.image_tiles) == 0 or len(plan.caption_tiles) == 0:
        return cuda_pair.pair_score(module, *inputs, scalars, config, precision)
    rows = [_loadable(x, precision) for x in (regions, words)]
    sides = [
        make_side(x, layout(offsets, len(x), x.device), precision)
        for x, offsets in zip(rows, (region_offsets, word_offsets), strict=True)
    ]
    out = scalars.new_empty(len(region_offsets) - 1, len(word_offsets) - 1)
    call = module.TileCall(
        half=int(precision == "float16"),
        width=rows[0].shape[1],
        config=options,
        scalars=scalars.data_ptr(),
        images=_items(module, sides[0]),
        captions=_items(module, sides[1]),
        regions=_rows(module, rows[0]),
        words=_rows(module, rows[1]),
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
    if len(plan.image_rest):
        some, bounds_of_some = _select(regions, region_offsets, plan.image_rest)
        out[plan.image_rest.to(out.device)] = rest(some, words, bounds_of_some, word_offsets)
    if len(plan.caption_rest):
        some, bounds_of_some = _select(words, word_offsets, plan.caption_rest)
        out[:, plan.caption_rest.to(out.device)] = rest(regions, some, region_offsets, bounds_of_some)
    return out
