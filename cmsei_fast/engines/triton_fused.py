"""The pair score by one persistent kernel, design ``fused``: a tile of whole items is multiplied, then scored."""

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
    """Words and regions of a tile, warps of a program, and programs per multiprocessor."""

    words: int
    regions: int
    warps: int
    programs: int

    @property
    def name(self) -> str:
        """The name that ``cmsei-fast doctor`` shows."""
        return f"fused {self.words}x{self.regions}"


# In 16 bits: the largest tile whose sums eight warps can hold, which reads the fewest features; and half of it, of
# which two programs fit a multiprocessor, so that the product of one overlaps the epilogue of the other. In float32,
# three products in place of one need a second accumulator: on an A100, only the smaller tile keeps both in registers.
_NARROW = (Tile(128, 256, 8, 1), Tile(128, 128, 4, 2))
TILES = {
    "bfloat16": _NARROW,
    "float16": _NARROW,
    "float32": (Tile(128, 128, 8, 1), Tile(64, 128, 8, 1)),
    "float64": (Tile(64, 64, 8, 1),),
}
STAGES = 3  # of features in shared memory, 48 KB each for a tile of 128 × 256
BAND = 8  # tiles of images; 132 programs then share about 2,000 words and 2,000 regions at a time
_MOST_TILES = 2**30  # of a launch, because their indices are 32 bits
_INTERPRETED_PROGRAMS = 2  # tests need more than one, and fewer than there are tiles


def depth_block(bytes_: int, arch: int) -> int:
    """Feature columns of one pipeline stage: 128 bytes of a row, on sm_80 64 bytes.

    On sm_80, threads keep the addresses of everything they copy. For a tile of 128 × 256, which needs 128 registers for
    sums, the addresses of 128 bytes took 24 more and were read from the stack in every stage.
    """
    return max(16, (64 if arch // 10 == 8 else 128) // bytes_)


def too_large(tile: Tile, region_offsets: Tensor, word_offsets: Tensor) -> str | None:
    """Why a tile cannot hold each of these items whole; None if it can."""
    for name, offsets, max_rows in (("image", region_offsets, tile.regions), ("caption", word_offsets, tile.words)):
        longest = int(offsets.diff().max()) if len(offsets) > 1 else 0
        if longest > max_rows:
            return f"one {name} has {longest} rows, a tile {max_rows}"
    return None


@dataclass(frozen=True)
class Tiling:
    """How the items of a run are distributed to tiles. Tensors are int64, on the device.

    Args:
        bounds: (tiles + 1,) positions in the layout's order where the tiles begin.
        rows: (tiles, rows of a tile) packed rows; 0 past a tile's last item.
        starts: (items of the side,) first row within its tile, for the items of the run.
    """

    bounds: Tensor
    rows: Tensor
    starts: Tensor

    def parts(self, tiles: int) -> list[Tiling]:
        """Consecutive parts of at most ``tiles`` tiles."""
        return [
            Tiling(self.bounds[first : first + tiles + 1], self.rows[first : first + tiles], self.starts)
            for first in range(0, len(self.rows), tiles)
        ]


@device_cache(64)
def _tiling(offsets: bytes, order: bytes, first: int, tile_size: int, device: str) -> Tiling:
    """The tiling of a run, whose items are given in the order of launch; cached because lengths repeat."""
    item_offsets, items = (np.frombuffer(x, dtype=np.int64) for x in (offsets, order))
    lengths = np.diff(item_offsets)[items]
    packed = np.concatenate([[0], np.cumsum(lengths)])  # rows in the run's order
    tile_bounds = np.array([0, *(last for _, last in runs(packed, tile_size))])
    tile_of_item = np.repeat(np.arange(len(tile_bounds) - 1), np.diff(tile_bounds))
    item_start = packed[:-1] - packed[tile_bounds[:-1]][tile_of_item]
    rows = np.zeros((len(tile_bounds) - 1, tile_size), dtype=np.int64)
    row_in_item = np.arange(packed[-1]) - np.repeat(packed[:-1], lengths)  # of each row, within its item
    rows[np.repeat(tile_of_item, lengths), np.repeat(item_start, lengths) + row_in_item] = (
        np.repeat(item_offsets[:-1][items], lengths) + row_in_item
    )
    starts = np.zeros(len(item_offsets) - 1, dtype=np.int64)
    starts[items] = item_start
    return Tiling(*(torch.from_numpy(x).to(device) for x in (first + tile_bounds, rows, starts)))


def _tilings(offsets: Tensor, side: Side, size: int) -> list[tuple[Run, Tiling]]:
    """The runs of a side that is a single chunk, with their tilings."""
    order = side.layout.host_order
    tilings = []
    for run in side.layout.chunks[0].runs:
        run_items = order[run.first : run.first + run.size]
        tiling = _tiling(offsets.numpy().tobytes(), run_items.tobytes(), run.first, size, str(side.rows.device))
        tilings.append((run, tiling))
    return tilings


def fused_options(config: list[int]) -> dict[str, Any]:
    """The kernel's compile-time options for both passes; those of a pass that is left out are placeholders."""
    by_query = {x["QUERY"]: x for x in passes(config)}
    all_options: dict[str, Any] = {"ALIGN": any(x["ALIGN"] for x in by_query.values())}
    for query, flag, suffix in ((1, "WORD_QUERIES", "_W"), (2, "REGION_QUERIES", "_V")):
        all_options[flag] = query in by_query
        options = by_query.get(query, next(iter(by_query.values())))
        all_options |= {f"{name}{suffix}": x for name, x in options.items() if name not in ("QUERY", "ALIGN", "ADD")}
    return all_options


def form(tile: Tile, arch: int) -> dict[str, bool]:
    """Options of the kernel on which spills depend; with these the compiler reports none, in 16 bits or in float32.

    TURNED is that of ``triton_launch.turned``, for both passes: on sm_100, and on sm_80 for tiles of 4 warps. HALVES is
    for sums from tensor memory (sm_100) of which a thread has 128: a kernel takes 192 registers instead of 255 and 22
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
    acc_dtype = accumulator(precision)
    scores = regions.new_empty(len(region_offsets) - 1, len(word_offsets) - 1, dtype=acc_dtype)
    if not scores.numel():
        return scores
    images, captions = (
        make_side(x, layout(offsets, len(x), x.device), precision)
        for x, offsets in ((regions, region_offsets), (words, word_offsets))
    )
    programs = _programs(tile, regions.device)
    scratch = regions.new_empty(programs, tile.words, tile.regions, dtype=acc_dtype)
    exact = any(pass_precision(x, precision) != product_precision(precision) for x in passes(config))
    options = fused_options(config) | {"PRECISION": product_precision(precision, exact)}
    options["FEATURE_PRECISION"] = product_precision(precision, exact=True)
    options |= form(tile, architecture(regions.device))
    for (image_run, image_tiling), (caption_run, caption_tiling) in itertools.product(
        _tilings(region_offsets, images, tile.regions), _tilings(word_offsets, captions, tile.words)
    ):
        for image_tiles in image_tiling.parts(max(1, _MOST_TILES // len(caption_tiling.rows))):
            _launch(
                tile,
                programs,
                scratch,
                scores,
                (images, image_run, image_tiles),
                (captions, caption_run, caption_tiling),
                scalars,
                options,
            )
    return scores


def _launch(
    tile: Tile,
    programs: int,
    scratch: Tensor,
    scores: Tensor,
    images: tuple[Side, Run, Tiling],
    captions: tuple[Side, Run, Tiling],
    scalars: Tensor,
    options: dict[str, Any],
) -> None:
    from cmsei_fast.kernels.pair_fused import fused_scores

    (side_v, run_v, tiles_v), (side_w, run_w, tiles_w) = images, captions
    width = side_v.rows.shape[1]
    depth = depth_block(side_w.rows.element_size(), architecture(side_w.rows.device))
    n_tiles = (len(tiles_w.bounds) - 1) * (len(tiles_v.bounds) - 1)
    fused_scores[(min(programs, n_tiles),)](
        side_w.rows,
        side_w.rows.stride(0),
        side_v.rows,
        side_v.rows.stride(0),
        width,
        scratch,
        scores,
        scores.stride(0),
        side_w.layout.order,
        side_v.layout.order,
        tiles_w.bounds,
        tiles_v.bounds,
        len(tiles_v.bounds) - 1,
        BAND * (len(tiles_w.bounds) - 1),
        n_tiles,
        tiles_w.rows,
        tiles_v.rows,
        tiles_w.starts,
        tiles_v.starts,
        run_w.first,
        run_v.first,
        run_w.gram_start,
        run_v.gram_start,
        *side_w.arguments,
        *side_v.arguments,
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
