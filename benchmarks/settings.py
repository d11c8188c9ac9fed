"""The sizes of the benchmarks: full, or with CMSEI_BENCH_QUICK=1 just large enough to run every line."""

from __future__ import annotations

import os
from dataclasses import dataclass

QUICK = os.environ.get("CMSEI_BENCH_QUICK", "") not in ("", "0")

REGIONS = 36


@dataclass(frozen=True)
class Sizes:
    """Numbers of items, widths and repetitions.

    Args:
        width: D of the features.
        images, captions: of the scoring rows; ``slow_captions`` where the slower side needs seconds for them.
        batch: images and captions of a training step.
        cmsei_captions, cmsei_batch: the same where CMSEI's literal form is the slower side, and the larger.
        graphs, heads, head_width: of relation attention.
        scale: (images, captions) of each size of the scaling rows, ascending.
        shared: images and captions of the rows of several processes: many tiles for each of them.
        large: (images, captions, slabs that are run) of the sizes of whole data sets; ``slab`` images of each.
        rounds: most rounds of a row; ``seconds`` what its rounds may take together, at least ``least`` are run.
    """

    width: int
    images: int
    captions: int
    slow_captions: int
    batch: int
    cmsei_captions: int
    cmsei_batch: int
    graphs: int
    heads: int
    head_width: int
    scale: tuple[tuple[int, int], ...]
    shared: tuple[int, int]
    large: tuple[tuple[int, int, int], ...]
    slab: int
    rounds: int
    least: int
    seconds: float


FULL = Sizes(
    width=1024,
    images=128,
    captions=256,
    slow_captions=64,
    batch=128,
    cmsei_captions=32,
    cmsei_batch=32,
    graphs=128,
    heads=8,
    head_width=128,
    scale=((200, 500), (500, 2000), (2000, 5000)),
    shared=(1000, 5000),
    large=((1000, 5000, 4), (5000, 25_000, 20), (10_000, 50_000, 1)),
    slab=250,
    rounds=15,
    least=5,
    seconds=20.0,
)
SMALL = Sizes(
    width=256,
    images=16,
    captions=32,
    slow_captions=16,
    batch=16,
    cmsei_captions=16,
    cmsei_batch=8,
    graphs=8,
    heads=2,
    head_width=32,
    scale=((20, 50), (50, 200), (200, 500)),
    shared=(20, 100),
    large=((20, 50, 2), (40, 100, 4), (80, 200, 1)),
    slab=10,
    rounds=3,
    least=3,
    seconds=3.0,
)
SIZES = SMALL if QUICK else FULL
