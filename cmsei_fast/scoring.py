"""Scores of every image with every sentence: check, read in blocks, score in tiles, write."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import checks, engines
from .compiling import outside_graphs
from .distributed import Team
from .encoded import Encoded
from .engines.eight_bits import rounds
from .packing import make_items
from .progress import Progress
from .score_file import check_path, write_scores
from .scorer import PairScorer
from .tiling import Problem, ScoreTiles, TileStream, in_file


@outside_graphs
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
    resume: bool = False,
    progress: bool = False,
    group: Any = None,
) -> Any:
    """The score of every image with every caption, (n_image, n_caption).

    The order of the first three arguments is that of SCAN's ``xattn_score(images, captions, cap_lens, …)``. No gradient
    is recorded.

    Args:
        images: regions, padded (N, R, D) or packed (ΣR, D): a numpy array or memmap, a torch tensor on any device or an
            h5py dataset, in float16, bfloat16, float32 or float64. Memmaps and datasets are read in blocks, never
            whole. Or what :meth:`cmsei_fast.CMSEI.encode_images` returns, which includes the lengths.
        captions: words, padded (M, L, D) or packed (ΣL, D), likewise.
        caption_lengths: (M,) number of words of each caption, a list, array or tensor of integers from 1 to L. None: L
            for all, with a warning where rows of zeros look like padding; packed captions need it.
        image_lengths: (N,) number of regions of each image, likewise.
        scorer: what the score is; None is ``PairScorer.cmsei()``. Features are used as they are; the presets expect
            unit vectors, as the field's encoders return them.
        engine: "auto" or the name of an engine.
        precision: what the features are rounded to: "float32", "bfloat16", "float16", "float64", or, with a scale for
            each row (docs/scores.md), "float8" (e4m3) or "int8". Sums are kept in float32 (in float64 for "float64").
            None: the features' own dtype, the wider one if the two sides differ.
        out: array, memmap, tensor or h5py dataset (N, M) of a floating dtype to write into. Or the name of a file that
            ends in ``.npy``: it appears, or replaces an older one, only once all scores are there.
        resume: skip what an earlier run into the same file has finished (docs/large-runs.md).
        progress: show pairs per second and the time left on standard error: a bar on a terminal, else a line every
            ten seconds.
        group: of torch.distributed: its processes, each with the same call, share the tiles of a file ``out``
            (docs/distributed.md). None: this process alone.

    Returns:
        ``out`` if given, or a read-only memmap of the file that it names; else a new matrix: a tensor on the features'
        device for tensors, a numpy array for arrays and datasets. A new matrix or file is float64 for "float64", else
        float32. N or M may be 0. Memory beyond the matrix does not grow with the number of pairs.

    Raises:
        TypeError: for a wrong type or a dtype that is not floating.
        ValueError: for wrong shapes, lengths, devices or names, for NaN or infinities in the features (not in their
            padding), found as a block is read, and if ``resume`` finds an unfinished file of another problem.
        OSError: if the file cannot be written.
        MemoryError: if the matrix cannot fit and there is no ``out``.
        EngineUnavailable: if the engine cannot run here.
        ProcessLost: if another process of the group failed or is lost.

    After an error or an interrupt, every incomplete row of ``out`` is NaN, except that rows of a memmap or dataset to
    which nothing was written stay as they were. Of a file, the unfinished part is left for ``resume``.
    """
    named = isinstance(out, (str, os.PathLike))
    if resume and not named:
        raise ValueError(f"resume: expected out= to be the name of a file, got {type(out).__name__}")
    if group is not None and not named:
        raise ValueError(f"group: expected out= to be the name of a file, got {type(out).__name__}")
    if named:
        check_path(out)
    problem = prepare(images, captions, caption_lengths, image_lengths, scorer, engine, precision)
    if named:
        stream = TileStream(problem)
        team = Team(group, stream)
        team.agree(resume=resume)
        return write_scores(stream, out, resume, progress, team)[0]
    if out is None:  # before tiles are cut: their bounds alone could be too many
        checks.check_memory(problem.shape, problem.dtype.itemsize, problem.device)
    return score(TileStream(problem), out=out, progress=progress, tensor=isinstance(problem.images.data, Tensor))


def prepare(
    images: Any,
    captions: Any,
    caption_lengths: Any,
    image_lengths: Any,
    scorer: PairScorer | None,
    engine: str,
    precision: str | None,
    names: tuple[str, str, str, str] = ("images", "captions", "caption_lengths", "image_lengths"),
    labels: tuple[Callable[[int], str], Callable[[int], str]] = (str, str),
) -> Problem:
    """Checks everything that can be known before the features are read; raises as :func:`score_matrix` does.

    For errors: ``names`` is what the user calls the first four arguments, ``labels`` what an image and a caption
    are called, given their index.
    """
    for name, value in zip(names, (images, captions), strict=False):
        if not isinstance(value, Encoded):  # before lengths, which another order of arguments puts features in place of
            checks.kind_of(name, value)
    images, image_lengths = checks.unpacked("image", images, image_lengths)
    captions, caption_lengths = checks.unpacked("caption", captions, caption_lengths)
    sides = ((names[0], images), (names[1], captions))
    for name, value in sides:
        checks.kind_of(name, value)
    dtypes = [checks.dtype_of(name, value) for name, value in sides]
    for name, value in sides:
        checks.check_features(name, value)
    checks.check_agreement(images, captions, names[:2])
    lengths = [
        checks.check_lengths(names[3], image_lengths, "image", tuple(images.shape)),
        checks.check_lengths(names[2], caption_lengths, "caption", tuple(captions.shape)),
    ]
    scorer = checks.check_scorer(scorer)
    precision = checks.check_precision(precision, torch.promote_types(dtypes[0], dtypes[1]))
    device = images.device if isinstance(images, Tensor) else torch.device("cpu")
    if not isinstance(engine, str):
        raise TypeError(f"engine: expected a string, got {type(engine).__name__}")
    if engine == "auto":
        engine = engines.choose(device, "pair_score", scorer.config())
    own = rounds(engines.get(engine, device, "pair_score", scorer.config()), precision)
    # What an engine rounds itself is not rounded before, but for float64, whose range may be more than its kernels'.
    read = [None if own and dtype != torch.float64 else precision for dtype in dtypes]
    problem = Problem(
        make_items(names[0], "image", images, lengths[0], read[0], labels[0]),
        make_items(names[1], "caption", captions, lengths[1], read[1], labels[1]),
        scorer,
        engine,
        precision,
    )
    for items in (problem.images, problem.captions):
        checks.check_item(items.name, items.largest, problem.device)
    return problem


@torch.no_grad()
def score(stream: ScoreTiles, *, out: Any = None, progress: bool = False, tensor: bool = True) -> Any:
    """Writes tiles into ``out`` or a new matrix, a tensor or an array; raises as :func:`score_matrix` does."""
    shape = stream.shape
    if out is None:
        checks.check_memory(shape, stream.dtype.itemsize, stream.device)
        scores = torch.empty(shape, dtype=stream.dtype, device=stream.device)
        out = scores if tensor else scores.numpy()
    else:
        for problem in stream.problems:
            checks.check_out(out, shape, (problem.images.data, problem.captions.data))
    if 0 in shape:
        return out
    target = torch.from_numpy(out) if isinstance(out, np.ndarray) and _suits_torch(out) else out
    target = target.detach() if isinstance(target, Tensor) else target
    bar = Progress(shape[0] * shape[1]) if progress else None
    reached = complete = 0  # rows of ``out``
    try:
        for i, j, tile in stream.tiles():
            rows, columns = stream.grid.rows(i), stream.grid.columns(j)
            reached = max(reached, rows.stop)
            write_tile(target, rows, columns, tile)
            if columns.stop == shape[1] and any(last == i + 1 for _, last in stream.grid.image_blocks):
                complete = rows.stop  # the last tile of a block of images
            if bar is not None:
                bar.update(tile.numel())
    except BaseException:  # an interrupt too: nothing in ``out`` may look like a score and not be one
        # Rows of a file that nothing was written to stay as they are: a sparse file must not fill the disk.
        target[complete : reached if in_file(out) else shape[0]] = float("nan")
        raise
    finally:
        if bar is not None:
            bar.close()
    return out


def write_tile(target: Any, rows: slice, columns: slice, tile: Tensor) -> None:
    """Writes scores to a part of a tensor, an array or a dataset (N, M)."""
    if isinstance(target, Tensor):
        target[rows, columns].copy_(tile)
    else:
        target[rows, columns] = tile.cpu().numpy()


def _suits_torch(array: np.ndarray) -> bool:
    return array.dtype.isnative and all(s >= 0 and s % array.itemsize == 0 for s in array.strides)
