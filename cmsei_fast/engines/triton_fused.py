"""The pair score by one persistent kernel: tiles of whole items, their product and their scores."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cmsei_fast.engines.device_cache import device_cache
from cmsei_fast.engines.terms import accumulator
from cmsei_fast.engines.triton_launch import architecture, launch
from cmsei_fast.engines.triton_pair import pass_precision, passes
from cmsei_fast.engines.triton_sides import Run, Side, layout, make_side, product_precision
from cmsei_fast.packing import runs


class Tile(NamedTuple):
    """Rows of words, rows of regions, warps of a program, programs a multiprocessor."""

    words: int
    regions: int
    warps: int
    programs: int

    @property
    def name(self) -> str:
        """As ``cmsei-fast doctor`` spells it."""
        return f"fused {self.words}x{self.regions}"


# 16 bits: the largest accumulator that eight warps hold, which reads the fewest features; half of it, of which two
# programs fit a multiprocessor, so that one's product hides the other's epilogue. Three products in place of one
# (float32) need a second accumulator; on an A100 only the smaller tile keeps both in registers.
_NARROW = (Tile(128, 256, 8, 1), Tile(128, 128, 4, 2))
TILES = {
    "bfloat16": _NARROW,
    "float16": _NARROW,
    "float32": (Tile(128, 128, 8, 1), Tile(64, 128, 8, 1)),
    "float64": (Tile(64, 64, 8, 1),),
}
STAGES = 3  # of features in shared memory, 48 KB each for a tile of 128 × 256
BAND = 8  # tiles of images; with 132 programs, a square of about 2,000 words by 2,000 regions at a time
_MOST_TILES = 2**30  # of a launch: their numbers are 32 bits
_INTERPRETED_PROGRAMS = 2  # more than one, and fewer than there are tiles


def depth_block(bytes_: int, arch: int) -> int:
    """Columns of the features that a stage holds: 128 bytes of a row.

    On sm_80, whose threads keep the addresses of all that they copy, half as many: for a tile of 128 × 256, beside 128
    sums, addresses took 24 registers and were read from the stack for each stage.
    """
    return max(16, (64 if arch // 10 == 8 else 128) // bytes_)


def too_large(tile: Tile, region_offsets: Tensor, word_offsets: Tensor) -> str | None:
    """Why these items cannot be packed into tiles whole; None if they can."""
    for name, offsets, most in (("image", region_offsets, tile.regions), ("caption", word_offsets, tile.words)):
        longest = int(offsets.diff().max()) if len(offsets) > 1 else 0
        if longest > most:
            return f"one {name} has {longest} rows, a tile {most}"
    return None


@dataclass(frozen=True)
class Tiling:
    """Where the items of a run of one padded size lie in tiles: tensors on the device, int64.

    Args:
        bounds: (tiles + 1,) places in the layout's order where a tile's items begin.
        rows: (tiles, size) packed rows.
        starts: (items of the side,) first row within its tile of each item of the run.
    """

    bounds: Tensor
    rows: Tensor
    starts: Tensor

    def parts(self, tiles: int) -> list[Tiling]:
        """Runs of at most so many tiles, in order."""
        return [
            Tiling(self.bounds[i : i + tiles + 1], self.rows[i : i + tiles], self.starts)
            for i in range(0, len(self.rows), tiles)
        ]


@device_cache(64)
def _tiling(offsets: bytes, order: bytes, first: int, size: int, device: str) -> Tiling:
    """Cached, because the same lengths come again."""
    starts, items = (np.frombuffer(x, dtype=np.int64) for x in (offsets, order))
    lengths = np.diff(starts)[items]
    packed = np.concatenate([[0], np.cumsum(lengths)])  # rows in the run's order
    cuts = np.array([0, *(last for _, last in runs(packed, size))])
    tile = np.repeat(np.arange(len(cuts) - 1), np.diff(cuts))  # of each item
    within = packed[:-1] - packed[cuts[:-1]][tile]
    rows = np.zeros((len(cuts) - 1, size), dtype=np.int64)
    nth = np.arange(packed[-1]) - np.repeat(packed[:-1], lengths)  # of each row, within its item
    rows[np.repeat(tile, lengths), np.repeat(within, lengths) + nth] = np.repeat(starts[:-1][items], lengths) + nth
    place = np.zeros(len(starts) - 1, dtype=np.int64)
    place[items] = within
    return Tiling(*(torch.from_numpy(x).to(device) for x in (first + cuts, rows, place)))


def _tilings(offsets: Tensor, side: Side, size: int) -> list[tuple[Run, Tiling]]:
    """The tiles of each run of a side that is one chunk."""
    order = side.layout.places
    out = []
    for run in side.layout.chunks[0].runs:
        own = order[run.first : run.first + run.size]
        tiling = _tiling(offsets.numpy().tobytes(), own.tobytes(), run.first, size, str(side.rows.device))
        out.append((run, tiling))
    return out


def fused_options(config: list[int]) -> dict[str, Any]:
    """The kernel's compile-time options of both passes."""
    asked = {x["QUERY"]: x for x in passes(config)}
    out: dict[str, Any] = {"ALIGN": any(x["ALIGN"] for x in asked.values())}
    for query, who, end in ((1, "WORDS", "_W"), (2, "REGIONS", "_R")):
        out[who] = query in asked
        own = asked.get(query, next(iter(asked.values())))
        out |= {f"{name}{end}": x for name, x in own.items() if name not in ("QUERY", "ALIGN", "ADD")}
    return out


def form(tile: Tile, arch: int) -> dict[str, bool]:
    """Options of the kernel on which spills depend; with these the compiler reports none, in 16 bits and in float32.

    TURNED, as ``triton_launch.turned``, of both passes: for sm_100, and for sm_80 where the tile is the narrow one.
    HALVES: of sums that come from tensor memory (sm_100), where a thread has 128 of them: 192 registers, not 255 and 22
    values on the stack.
    """
    tensor_memory = arch // 10 == 10
    return {
        "TURNED": arch // 10 not in (8, 9) or (arch // 10 == 8 and tile.warps == 4),
        "HALVES": tensor_memory and tile.regions == 256,
    }


def _programs(tile: Tile, device: torch.device) -> int:
    if device.type != "cuda":
        return _INTERPRETED_PROGRAMS
    return tile.programs * torch.cuda.get_device_properties(device).multi_processor_count


def pair_score(
    regions: Tensor,
    words: Tensor,
    region_offsets: Tensor,
    word_offsets: Tensor,
    scalars: Tensor,
    config: list[int],
    precision: str,
    tile: Tile,
) -> Tensor:
    """Scores (N, M) as ``triton_pair.pair_score`` gives them, of items that fit the tile (:func:`too_large`)."""
    wide = accumulator(precision)
    out = regions.new_empty(len(region_offsets) - 1, len(word_offsets) - 1, dtype=wide)
    if not out.numel():
        return out
    images, captions = (
        make_side(x, layout(offsets, len(x), x.device), precision)
        for x, offsets in ((regions, region_offsets), (words, word_offsets))
    )
    programs = _programs(tile, regions.device)
    scratch = regions.new_empty(programs, tile.words, tile.regions, dtype=wide)
    exact = any(pass_precision(x, precision) != product_precision(precision) for x in passes(config))
    options = fused_options(config) | {"PRECISION": product_precision(precision, exact)}
    options["PRODUCT"] = product_precision(precision, exact=True)
    options |= form(tile, architecture(regions.device))
    for (own, own_tiles), (other, other_tiles) in itertools.product(
        _tilings(region_offsets, images, tile.regions), _tilings(word_offsets, captions, tile.words)
    ):
        for part in own_tiles.parts(max(1, _MOST_TILES // len(other_tiles.rows))):
            _launch(tile, programs, scratch, out, (images, own, part), (captions, other, other_tiles), scalars, options)
    return out


def _launch(
    tile: Tile,
    programs: int,
    scratch: Tensor,
    out: Tensor,
    images: tuple[Side, Run, Tiling],
    captions: tuple[Side, Run, Tiling],
    scalars: Tensor,
    options: dict[str, Any],
) -> None:
    from cmsei_fast.kernels.pair_fused import fused_scores

    (own_v, run_v, tiles_v), (own_w, run_w, tiles_w) = images, captions
    width = own_v.rows.shape[1]
    depth = depth_block(own_w.rows.element_size(), architecture(own_w.rows.device))
    count = (len(tiles_w.bounds) - 1) * (len(tiles_v.bounds) - 1)
    fused_scores[(min(programs, count),)](
        own_w.rows,
        own_w.rows.stride(0),
        own_v.rows,
        own_v.rows.stride(0),
        width,
        scratch,
        out,
        out.stride(0),
        own_w.layout.order,
        own_v.layout.order,
        tiles_w.bounds,
        tiles_v.bounds,
        len(tiles_v.bounds) - 1,
        BAND * (len(tiles_w.bounds) - 1),
        count,
        tiles_w.rows,
        tiles_v.rows,
        tiles_w.starts,
        tiles_v.starts,
        run_w.first,
        run_v.first,
        run_w.gram,
        run_v.gram,
        *own_w.arguments,
        *own_v.arguments,
        scalars,
        TM=tile.words,
        TN=tile.regions,
        BK=depth,
        EVEN=width % depth == 0,
        BAND=BAND,
        C=launch("pair_scores", run_w.block, run_v.block).captions,
        BL=run_w.block,
        BR=run_v.block,
        **options,
        num_warps=tile.warps,
        num_stages=STAGES,
    )
