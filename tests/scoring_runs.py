"""A small scoring run, here or as a process that kills itself: ``python scoring_runs.py OUT WHERE``."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from cmsei_fast import engines, score_file, score_matrix, tiling

SMALL = {"IMAGE_BLOCK_BYTES": 5 * 5 * 12 * 4, "CAPTION_BLOCK_BYTES": 7 * 7 * 12 * 4}
TILE_WORK = 500_000


def features(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """12 images and 30 captions, padded, and the lengths of captions and images."""
    rng = np.random.default_rng(seed)
    images, captions = rng.standard_normal((12, 5, 12)), rng.standard_normal((30, 7, 12))
    n, m = rng.integers(1, 6, 12), rng.integers(1, 8, 30)
    return images.astype(np.float32), captions.astype(np.float32), m, n


@contextlib.contextmanager
def small_tiles() -> Iterator[list[int]]:
    """Inside the block, tiles are of few pairs and each is marked at once; gives the pairs of each tile scored."""
    before = {name: getattr(tiling, name) for name in (*SMALL, "TILE_WORK")}
    module, scored = engines.get("eager"), []
    real, every = module.pair_score, score_file.MARK_EVERY

    def counted(*arguments):
        out = real(*arguments)
        scored.append(out.numel())
        return out

    try:
        for name, value in (SMALL | {"TILE_WORK": dict.fromkeys(tiling.TILE_WORK, TILE_WORK)}).items():
            setattr(tiling, name, value)
        module.pair_score, score_file.MARK_EVERY = counted, 0.0
        yield scored
    finally:
        for name, value in before.items():
            setattr(tiling, name, value)
        module.pair_score, score_file.MARK_EVERY = real, every


def killed(out: Path, where: str) -> None:
    """Starts a run of its own that is killed: after ``where`` tiles, or before or after the file is given its name."""
    process = subprocess.run(
        [sys.executable, __file__, str(out), where], stderr=subprocess.PIPE, text=True, timeout=100
    )
    assert process.returncode == -signal.SIGKILL, process.stderr


def main() -> None:
    torch.set_num_threads(1)
    out, where = sys.argv[1:]
    write, replace = score_file.ScoreFile.write, os.replace

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def write_or_die(self, i, j, tile):
        if str(self.done.sum()) == where:
            die()
        return write(self, i, j, tile)

    def replace_or_die(source, target):
        named = os.fspath(target) == out
        if named and where == "before":
            die()
        replace(source, target)
        if named:
            die()

    score_file.ScoreFile.write, os.replace = write_or_die, replace_or_die
    with small_tiles():
        score_matrix(*features(), out=out, engine="eager")


if __name__ == "__main__":
    main()
