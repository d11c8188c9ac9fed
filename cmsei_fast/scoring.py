"""Scores of every image with every sentence: check, read in blocks, score in tiles, write."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import checks, engines
from .engines.terms import accumulator
from .packing import Block, Items, make_items, runs
from .scorer import PairScorer

# Bytes of features that are held at a time. The captions are read once for every block of images.
IMAGE_BLOCK_BYTES = 1 << 28
CAPTION_BLOCK_BYTES = 1 << 26

# Work of one tile in multiply-adds, half a second or less, because an interrupt is answered between two tiles (native
# looks for one itself every 100 ms). Then what one attention step adds to the D multiply-adds of a (region, word),
# measured in the same unit.
TILE_WORK = {"reference": 1 << 25, "eager": 1 << 30, "native": 1 << 35, "cuda": 1 << 38, "triton": 1 << 43}
STEP_WORK = {"reference": 2048, "eager": 1024, "native": 256, "cuda": 256, "triton": 256}
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

    def narrow(self, first_image: int, last_image: int, first_caption: int, last_caption: int) -> Problem:
        """A rectangle of the pairs."""
        images = self.images.narrow(first_image, last_image)
        return replace(self, images=images, captions=self.captions.narrow(first_caption, last_caption))


def score_matrix(
    images: Any,
    captions: Any,
    caption_lengths: Any = None,
    image_lengths: Any = None,
    *,
    scorer: PairScorer | None = None,
    engine: str = "auto",
    precision: str | None = None,
    out: Any = None,
    progress: bool = False,
) -> Any:
    """The score of every image with every caption, (n_image, n_caption).

    Positional order is that of SCAN's ``xattn_score(images, captions, cap_lens, …)``. No gradient is recorded.

    Args:
        images: regions, padded (N, R, D) or packed (ΣR, D): numpy array or memmap, torch tensor on any device or h5py
            dataset of float16, bfloat16, float32 or float64. Memmaps and datasets are read in blocks, never whole. Or
            what :meth:`cmsei_fast.CMSEI.encode_images` returns, which has its lengths with it.
        captions: words, padded (M, L, D) or packed (ΣL, D), likewise.
        caption_lengths: (M,) words of each caption, list, array or tensor of integers from 1 to L. None: all L; packed
            captions need it.
        image_lengths: (N,) regions of each image, likewise.
        scorer: what the score is; None is ``PairScorer.cmsei()``.
        engine: "auto" or the name of an engine.
        precision: "float32", "bfloat16", "float16" or "float64": features are rounded to it, sums are kept in float32
            (in float64 for "float64"). None: the features' own dtype, the wider one if the two sides differ.
        out: array, memmap, tensor or h5py dataset (N, M) of a floating dtype, to write into.
        progress: show a bar that counts pairs (needs tqdm).

    Returns:
        ``out`` if given, else a new matrix, float64 for "float64" and float32 for all others: a tensor on the features'
        device for tensors, a numpy array for arrays and datasets. N or M may be 0. Memory beyond it does not grow
        with the number of pairs.

    Raises:
        TypeError: for a wrong type or a dtype that is not floating; ValueError: for wrong shapes, lengths, devices or
            names, and for NaN or infinities in the features (not in their padding), found as a block is read;
            MemoryError: if the matrix cannot fit and there is no ``out``; EngineUnavailable: if the engine cannot run
            here. After an error or an interrupt every row of ``out`` that is not complete is NaN.
    """
    problem = prepare(images, captions, caption_lengths, image_lengths, scorer, engine, precision)
    return score(problem, out=out, progress=progress)


def prepare(
    images: Any,
    captions: Any,
    caption_lengths: Any,
    image_lengths: Any,
    scorer: PairScorer | None,
    engine: str,
    precision: str | None,
) -> Problem:
    """Checks everything that can be known before the features are read; raises as :func:`score_matrix` does."""
    images, image_lengths = checks.unpacked("image", images, image_lengths)
    captions, caption_lengths = checks.unpacked("caption", captions, caption_lengths)
    sides = (("images", images), ("captions", captions))
    for name, value in sides:
        checks.kind_of(name, value)
    dtypes = [checks.dtype_of(name, value) for name, value in sides]
    for name, value in sides:
        checks.check_features(name, value)
    checks.check_agreement(images, captions)
    lengths = [
        checks.check_lengths("image_lengths", image_lengths, "image", tuple(images.shape)),
        checks.check_lengths("caption_lengths", caption_lengths, "caption", tuple(captions.shape)),
    ]
    scorer = checks.check_scorer(scorer)
    precision = checks.check_precision(precision, torch.promote_types(dtypes[0], dtypes[1]))
    device = images.device if isinstance(images, Tensor) else torch.device("cpu")
    if not isinstance(engine, str):
        raise TypeError(f"engine: expected a string, got {type(engine).__name__}")
    if engine == "auto":
        engine = engines.choose(device, "pair_score", scorer.config())
    engines.get(engine, device, "pair_score", scorer.config())
    dtype = checks.PRECISIONS[precision]
    return Problem(
        make_items("images", "image", images, lengths[0], dtype),
        make_items("captions", "caption", captions, lengths[1], dtype),
        scorer,
        engine,
        precision,
    )


@torch.no_grad()
def score(problem: Problem, *, out: Any = None, progress: bool = False) -> Any:
    """Scores a checked problem into ``out`` or a new matrix; raises as :func:`score_matrix` does."""
    shape, dtype = problem.shape, accumulator(problem.precision)
    for items in (problem.images, problem.captions):
        checks.check_item(items.name, items.largest, problem.device)
    if out is None:
        checks.check_memory(shape, dtype.itemsize, problem.device)
        scores = torch.empty(shape, dtype=dtype, device=problem.device)
        out = scores if isinstance(problem.images.data, Tensor) else scores.numpy()
    else:
        checks.check_out(out, shape, (problem.images.data, problem.captions.data))
    if 0 in shape:
        return out
    bar = _progress_bar(shape) if progress else None
    target = torch.from_numpy(out) if isinstance(out, np.ndarray) and _suits_torch(out) else out
    target = target.detach() if isinstance(target, Tensor) else target
    complete = 0  # rows of ``out``
    try:
        for first, last in problem.images.ranges(IMAGE_BLOCK_BYTES):
            for rows, columns, tile in _tiles(problem, first, last):
                _check_scores(tile, rows, columns)
                if isinstance(target, Tensor):
                    target[rows, columns].copy_(tile)
                else:
                    target[rows, columns] = tile.cpu().numpy()
                if bar is not None:
                    bar.update(tile.numel())
            complete = last
    except BaseException:  # an interrupt too: nothing in ``out`` may look like a score and not be one
        target[complete:] = float("nan")
        raise
    finally:
        if bar is not None:
            bar.close()
    return out


def _tiles(problem: Problem, first: int, last: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """Scores the images ``first <= i < last`` with all captions; yields rows, columns and scores of each tile.

    Each side is read (and looked through for NaN) once; then captions again for every further block of images.
    """
    module = engines.get(problem.engine)
    scalars = torch.tensor(problem.scorer.scalars(), dtype=accumulator(problem.precision), device="cpu")
    config = problem.scorer.config()
    images = problem.images.read(first, last, check=True)
    for low, high in problem.captions.ranges(CAPTION_BLOCK_BYTES):
        captions = problem.captions.read(low, high, check=first == 0)
        region_limit, word_limit = _tile_sides(problem, images, captions)
        for i0, i1 in runs(images.offsets, region_limit):
            regions, region_offsets = _part(images, i0, i1)
            for j0, j1 in runs(captions.offsets, word_limit):
                words, word_offsets = _part(captions, j0, j1)
                # Neither autocast nor a default device set elsewhere may reach the engine.
                with torch.autocast(problem.device.type, enabled=False), torch.device("cpu"):
                    tile = module.pair_score(
                        regions, words, region_offsets, word_offsets, scalars, config, problem.precision
                    )
                yield slice(first + i0, first + i1), slice(low + j0, low + j1), tile


def _suits_torch(array: np.ndarray) -> bool:
    return array.dtype.isnative and all(s >= 0 and s % array.itemsize == 0 for s in array.strides)


def _part(block: Block, first: int, last: int) -> tuple[Tensor, Tensor]:
    """Rows and offsets (from 0) of some items of a block; the rows are a view."""
    offsets = block.offsets[first : last + 1]
    return block.rows[int(offsets[0]) : int(offsets[-1])], torch.from_numpy(offsets - offsets[0])


def _tile_sides(problem: Problem, images: Block, captions: Block) -> tuple[int, int]:
    """Most rows of regions and of words in a tile: about square, longer on one side where the other is short.

    The inner products of an item's rows with each other are kept too, up to three times: that bounds a side as well.
    """
    regions, words = len(images.rows), len(captions.rows)
    kind = problem.engine if problem.engine in TILE_WORK else "eager"
    if problem.device.type != "cpu" and kind not in ("reference", "triton"):
        kind = "cuda"
    steps = sum(a.steps for a in (problem.scorer.t2i, problem.scorer.i2t) if a is not None)
    products = TILE_WORK[kind] // (int(problem.images.data.shape[-1]) + STEP_WORK[kind] * steps)
    side = math.isqrt(products)
    # Both sides together are held packed: a short last block of captions must not draw in all images.
    word_limit = max(1, min(words, max(side, min(products // regions, 2 * side - regions))))
    most = [GRAM_NUMBERS // int(np.diff(block.offsets).max(initial=1)) for block in (images, captions)]
    return max(1, min(products // word_limit, 2 * side - word_limit, most[0])), max(1, min(word_limit, most[1]))


def _check_scores(tile: Tensor, rows: slice, columns: slice) -> None:
    finite = torch.isfinite(tile)
    if not finite.all():
        i, j = (~finite).nonzero()[0].tolist()
        raise ValueError(
            "images, captions: expected features with finite inner products, "
            f"got an overflow for image {rows.start + i} and caption {columns.start + j}"
        )


def _progress_bar(shape: tuple[int, int]) -> Any:
    from tqdm import tqdm

    return tqdm(total=shape[0] * shape[1], unit="pair", unit_scale=True)
