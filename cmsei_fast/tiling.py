"""The grid of tiles that the pairs are cut into, and the scores tile by tile while the next block of features is read.

The grid depends on the problem alone. Whatever is computed (the matrix, ranks, the best, one process's share) takes its
scores from the tiles of this grid, so a pair's score has the same bits everywhere.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from . import engines
from .engines.eight_bits import engine_precision
from .engines.terms import accumulator
from .packing import Block, Items, runs
from .scorer import PairScorer

# Bytes of features that are held at a time, twice that while the next block of a file is read. The captions are read
# once for every block of images.
IMAGE_BLOCK_BYTES = 1 << 28
CAPTION_BLOCK_BYTES = 1 << 26

# Work of one tile in multiply-adds, half a second or less, because an interrupt is answered between two tiles (native
# looks for one itself every 100 ms); a fused engine's many launches of a tile hide what Python does between two. Then
# what one attention step adds to the D multiply-adds of a (region, word), measured in the same unit.
TILE_WORK = {
    "reference": 1 << 25,
    "eager": 1 << 30,
    "eager on a GPU": 1 << 38,
    "native": 1 << 35,
    "cuda": 1 << 43,
    "triton": 1 << 43,
}
STEP_WORK = {"reference": 2048, "eager": 1024, "eager on a GPU": 256, "native": 256, "cuda": 256, "triton": 256}
# Inner products within the items of a tile's side, in numbers.
GRAM_NUMBERS = 1 << 24


@dataclass(frozen=True)
class Problem:
    """A checked call: two sides, what their score is, and what computes it."""

    images: Items
    captions: Items
    scorer: PairScorer
    engine: str
    precision: str

    @property
    def shape(self) -> tuple[int, int]:
        """(n_image, n_caption)."""
        return self.images.count, self.captions.count

    @property
    def device(self) -> torch.device:
        """Where the features are; the CPU for arrays and files."""
        data = self.images.data
        return data.device if isinstance(data, Tensor) else torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Of the scores."""
        return accumulator(self.precision)


@dataclass(frozen=True)
class Grid:
    """Tiles: ``(i, j)`` covers images ``image_cuts[i]`` to ``image_cuts[i + 1]`` and captions likewise.

    Args:
        image_cuts: (I + 1,) int64; ``caption_cuts`` (J + 1,).
        image_blocks: runs ``(first, last)`` of rows of tiles whose images are read together.
        caption_blocks: likewise.
    """

    image_cuts: np.ndarray
    caption_cuts: np.ndarray
    image_blocks: tuple[tuple[int, int], ...]
    caption_blocks: tuple[tuple[int, int], ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(I, J)."""
        return len(self.image_cuts) - 1, len(self.caption_cuts) - 1

    def rows(self, i: int) -> slice:
        """Images of the tiles in row i."""
        return slice(int(self.image_cuts[i]), int(self.image_cuts[i + 1]))

    def columns(self, j: int) -> slice:
        """Captions of the tiles in column j."""
        return slice(int(self.caption_cuts[j]), int(self.caption_cuts[j + 1]))

    def pairs(self, wanted: np.ndarray) -> int:
        """Pairs in those of the tiles (I, J) bool."""
        images, captions = np.diff(self.image_cuts), np.diff(self.caption_cuts)
        return int(images @ (wanted @ captions)) if wanted.size else 0


def make_grid(problem: Problem) -> Grid:
    """Tiles that are about square, and longer on one side where the other is short."""
    images, captions = problem.images, problem.captions
    offsets = images.row_offsets, captions.row_offsets
    ranges = list(images.ranges(IMAGE_BLOCK_BYTES)), list(captions.ranges(CAPTION_BLOCK_BYTES))
    limits = _tile_sides(problem, offsets, ranges)
    sides = []
    for side, parts, limit in zip(offsets, ranges, limits, strict=True):
        cuts, blocks = [0], []
        for first, last in parts:
            before = len(cuts) - 1
            cuts += [first + stop for _, stop in runs(side[first : last + 1], limit)]
            blocks.append((before, len(cuts) - 1))
        sides.append((np.array(cuts, dtype=np.int64), tuple(blocks)))
    return Grid(sides[0][0], sides[1][0], sides[0][1], sides[1][1])


def _tile_sides(problem: Problem, offsets: tuple[Any, Any], ranges: tuple[Any, Any]) -> tuple[int, int]:
    """Most rows of regions and of words in a tile.

    The inner products of an item's rows with each other are kept too, up to three times: that bounds a side as well.
    """
    regions, words = (
        max((int(side[last] - side[first]) for first, last in parts), default=1)
        for side, parts in zip(offsets, ranges, strict=True)
    )
    kind = problem.engine if problem.engine in TILE_WORK else "eager"
    if kind == "eager" and problem.device.type != "cpu":
        kind = "eager on a GPU"
    steps = sum(a.steps for a in (problem.scorer.t2i, problem.scorer.i2t) if a is not None)
    products = TILE_WORK[kind] // (int(problem.images.data.shape[-1]) + STEP_WORK[kind] * steps)
    side = math.isqrt(products)
    # Both sides together are held packed: few words must not draw in all images.
    word_limit = max(1, min(words, max(side, min(products // regions, 2 * side - regions))))
    most = [GRAM_NUMBERS // int(np.diff(x).max(initial=1)) for x in offsets]
    return max(1, min(products // word_limit, 2 * side - word_limit, most[0])), max(1, min(word_limit, most[1]))


@dataclass(frozen=True)
class Part:
    """The features of one tile: its images ``rows``, its captions ``columns``, their packed rows and offsets from 0."""

    rows: slice
    columns: slice
    regions: Tensor
    region_offsets: Tensor
    words: Tensor
    word_offsets: Tensor

    def some(self, side: str, items: slice) -> Part:
        """Those with some of the ``"image"`` or ``"caption"`` side's items, counted from the first of the tile."""
        image = side == "image"
        run = self.rows if image else self.columns
        rows, offsets = (self.regions, self.region_offsets) if image else (self.words, self.word_offsets)
        run = slice(run.start + items.start, run.start + items.stop)
        offsets = offsets[items.start : items.stop + 1]
        rows, offsets = rows[int(offsets[0]) : int(offsets[-1])], offsets - offsets[0]
        if image:
            return Part(run, self.columns, rows, offsets, self.words, self.word_offsets)
        return Part(self.rows, run, self.regions, self.region_offsets, rows, offsets)


class ScoreTiles(Protocol):
    """What gives scores tile by tile: of one problem, or a mean over several.

    Attributes:
        problems: those that the scores are of.
        grid: of the tiles; ``shape`` (n_image, n_caption) is that of all scores, ``dtype`` and ``device`` theirs.
    """

    problems: tuple[Problem, ...]
    grid: Grid
    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device

    def tiles(self, wanted: np.ndarray | None = None) -> Iterator[tuple[int, int, Tensor]]:
        """As :meth:`TileStream.tiles`."""
        ...


class TileStream:
    """Scores of a problem's tiles. Each block is looked through for NaN when it is first read."""

    def __init__(self, problem: Problem, grid: Grid | None = None) -> None:
        self.problem = problem
        self.problems: tuple[Problem, ...] = (problem,)
        self.shape, self.dtype, self.device = problem.shape, problem.dtype, problem.device
        self.grid = make_grid(problem) if grid is None else grid
        self._checked: set[tuple[int, int]] = set()
        self._last: tuple[tuple[int, int], Block] | None = None  # captions: what is read next is often the same

    def tiles(self, wanted: np.ndarray | None = None) -> Iterator[tuple[int, int, Tensor]]:
        """Yields (i, j, scores) of the tiles wanted, block by block of images.

        Args:
            wanted: (I, J) bool; None is all. It may lose tiles while the iterator runs: these are left out.

        Raises:
            ValueError: for NaN or infinities in the features, and for scores that are not finite.
        """
        for i, j, part in self.parts(wanted):
            yield i, j, self.score(part)

    def parts(self, wanted: np.ndarray | None = None) -> Iterator[tuple[int, int, Part]]:
        """Yields (i, j, features) of the tiles that :meth:`tiles` would score; raises as it does for the features."""
        if wanted is None:
            wanted = np.ones(self.grid.shape, dtype=bool)
        for (i0, i1), images, (j0, j1), captions in self._pairs_of_blocks(wanted):
            for i in range(i0, i1):
                for j in range(j0, j1):
                    if wanted[i, j]:
                        rows, columns = self.grid.rows(i), self.grid.columns(j)
                        yield i, j, Part(rows, columns, *_part(images, rows), *_part(captions, columns))

    def blocks(self, wanted: np.ndarray) -> Iterator[tuple[Block, Block]]:
        """Yields the images and captions of blocks that hold any of the tiles wanted; raises as :meth:`parts` does."""
        for _, images, _, captions in self._pairs_of_blocks(wanted):
            yield images, captions

    def _pairs_of_blocks(self, wanted: np.ndarray) -> Iterator[tuple[tuple[int, int], Block, tuple[int, int], Block]]:
        """Blocks of images and of captions, each with the tiles that it covers."""
        images: Block | None = None
        rows = (0, 0)
        for side, tiles, block in self._blocks(self._readings(wanted)):
            if side == 0:
                images, rows = block, tiles
                continue
            assert images is not None
            yield rows, images, tiles, block

    def _readings(self, wanted: np.ndarray) -> list[tuple[int, tuple[int, int]]]:
        """(side, tiles) of the blocks in the order in which they are needed: 0 images, 1 captions."""
        out = []
        for i0, i1 in self.grid.image_blocks:
            needed = np.logical_or.reduce(wanted[i0:i1])
            own = [(1, (j0, j1)) for j0, j1 in self.grid.caption_blocks if needed[j0:j1].any()]
            out += [(0, (i0, i1)), *own] if own else []
        return out

    def _blocks(self, readings: list[tuple[int, tuple[int, int]]]) -> Iterator[tuple[int, tuple[int, int], Block]]:
        """The blocks in order; of files, the next is read in a thread while one is worked on."""
        files = in_file(self.problem.images.data) or in_file(self.problem.captions.data)
        if not files or len(readings) < 2:
            for side, tiles in readings:
                yield side, tiles, self._read(side, tiles)
            return
        with ThreadPoolExecutor(1, thread_name_prefix="cmsei-read") as reader:
            coming = reader.submit(self._read, *readings[0])
            for (side, tiles), following in zip(readings, [*readings[1:], None], strict=True):
                block = coming.result()
                if following is not None:
                    coming = reader.submit(self._read, *following)
                yield side, tiles, block

    def _read(self, side: int, tiles: tuple[int, int]) -> Block:
        if side == 1 and self._last is not None and self._last[0] == tiles:
            return self._last[1]
        items = self.problem.captions if side else self.problem.images
        cuts = self.grid.caption_cuts if side else self.grid.image_cuts
        first, last = int(cuts[tiles[0]]), int(cuts[tiles[1]])
        with torch.no_grad():
            block = items.read(first, last, check=(side, first) not in self._checked)
        self._checked.add((side, first))
        if side == 1:
            self._last = tiles, block
        return block

    @torch.no_grad()
    def score(self, part: Part) -> Tensor:
        """Scores (images, captions) of a tile; ValueError for scores that are not finite."""
        tile = call_engine("pair_score", self.problem, part)
        check_scores(tile, part, self.problem)
        return tile


def call_engine(operator: str, problem: Problem, part: Part, precision: str | None = None, *more: Any) -> Tensor:
    """Scores (images, captions) of a tile by an operator of the problem's engine, in the precision or the problem's.

    Those of ``pair_score_listed`` are (n,), of the pairs that ``more`` marks.
    """
    module = engines.get(problem.engine)
    scalars = torch.tensor(problem.scorer.scalars(), dtype=problem.dtype, device="cpu")
    # Neither autocast nor a default device set elsewhere may reach the engine. Where none is set, nothing is undone:
    # within torch.device, torch calls Python for each of its functions, which takes as long as a small tile.
    on_cpu = nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")
    with torch.autocast(problem.device.type, enabled=False), on_cpu:
        scores: Tensor = getattr(module, operator)(
            part.regions,
            part.words,
            part.region_offsets,
            part.word_offsets,
            scalars,
            problem.scorer.config(),
            engine_precision(module, precision or problem.precision),
            *more,
        )
    return scores


def check_scores(scores: Tensor, part: Part, problem: Problem, wanted: Tensor | None = None) -> None:
    """Raises ValueError naming the first pair whose score is not finite; scores of a whole tile or of the wanted."""
    finite = torch.isfinite(scores)
    if not finite.all():
        pairs = (~finite).nonzero() if wanted is None else wanted.nonzero()[~finite]
        a, b = pairs[0].tolist()
        raise overflow(problem, part.rows.start + a, part.columns.start + b)


def overflow(problem: Problem, image: int, caption: int) -> ValueError:
    """The error of a pair whose score is not finite."""
    return ValueError(
        f"{problem.images.name}, {problem.captions.name}: expected features with finite inner products, "
        f"got an overflow for image {problem.images.label(image)} and caption {problem.captions.label(caption)}"
    )


def _part(block: Block, items: slice) -> tuple[Tensor, Tensor]:
    """Rows and offsets (from 0) of some items of a block; the rows are a view."""
    offsets = block.offsets[items.start - block.first : items.stop - block.first + 1]
    return block.rows[int(offsets[0]) : int(offsets[-1])], torch.from_numpy(offsets - offsets[0])


def in_file(data: Any) -> bool:
    """Whether features lie in a file: a memmap or an h5py dataset, which are read in blocks."""
    h5py = sys.modules.get("h5py")
    return isinstance(data, np.memmap) or (h5py is not None and isinstance(data, h5py.Dataset))
