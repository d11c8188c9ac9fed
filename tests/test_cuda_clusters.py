"""The kernel on Hopper: blocks that share what they load, and tiles that are loaded while others are scored."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import torch
from cuda_on_host import COMPILER, TileModule, bounds
from tiles_on_host import CONFIG, compared

from cmsei_fast.engines.eight_bits import FORMATS
from cmsei_fast.scorer import PairScorer

pytestmark = [
    pytest.mark.usefixtures("poisoned"),
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: the kernel cannot be run on the host"),
]


@pytest.mark.parametrize(
    ("regions", "words", "least", "most"),
    [(36, 5, 2, 2), (36, 16, 2, 2), (36, 17, 1, 1), (36, 24, 1, 1), (36, 40, 1, 1), (36, 41, 0, 0), (72, 64, 0, 0)],
)
@pytest.mark.parametrize("width", [64, 128, 600])
def test_the_next_tile_is_loaded_while_pairs_are_scored(
    regions: int, words: int, least: int, most: int, width: int
) -> None:
    """As far as the memory that the pairs take does not reach, and no further; but for a tile's last stage."""
    module = TileModule(blocks=1, cluster=(1, 1))
    images, captions = (regions,) * (3 * 144 // regions), (words,) * (64 // words)
    kind = int(regions > 40)
    _, _, _, *shares = module.pair_tiles(CONFIG, True, bounds(list(images)), bounds(list(captions)))[1][0]
    teams, size = shares[2 * kind : 2 * kind + 2]
    held = 4 * module.plan.tile_product_numbers() + teams * size
    ahead = sum(module.plan.hopper_stage(i) >= held for i in range(module.plan.hopper_stages()))
    assert least <= ahead <= most
    before = module.plan.hopper_ahead()
    compared(module, PairScorer.cmsei(), images, captions, width)
    loads = 2 * min(ahead, -(-width // 64) - 1)  # of words and of regions
    assert module.plan.hopper_ahead() - before == 2 * loads  # in the second tile and the third


@pytest.mark.parametrize(
    ("cluster", "images", "captions"),
    [
        ((2, 1), [36] * 12, [5] * 12 + [40]),  # a caption tile of short captions and one of a long caption
        ((1, 2), ([36] * 4 + [90]) * 3, [5] * 12),  # images of either kind
    ],
)
def test_a_cluster_loads_ahead_as_far_as_the_pairs_of_all_its_blocks_allow(
    cluster: tuple[int, int], images: list[int], captions: list[int]
) -> None:
    module = TileModule(blocks=1, cluster=cluster)
    tiles = module.pair_tiles(CONFIG, True, bounds(images), bounds(captions))
    ahead = set()
    for (_, _, kind, *_), (_, _, _, *shares) in itertools.product(*tiles):
        held = 4 * module.plan.tile_product_numbers() + shares[2 * kind] * shares[2 * kind + 1]
        ahead.add(sum(module.plan.hopper_stage(i) >= held for i in range(4)))
    assert ahead == {1, 2}
    before = module.plan.hopper_ahead()
    compared(module, PairScorer.cmsei(), tuple(images), tuple(captions), 200)
    rectangles = len(tiles[0]) // cluster[1]
    assert module.plan.hopper_ahead() - before == 2 * 2 * (rectangles - 1)  # blocks, words and regions


# Three image tiles, of either kind, and three caption tiles, whose teams take more memory or less.
CLUSTERED = PairScorer.cmsei(), (40, 40, 40, 40, 100), (40, 12, 20, 20, 20, 40, 5)


@functools.cache
def alone(precision: str, width: int) -> torch.Tensor:
    return compared(TileModule(cluster=(1, 1)), *CLUSTERED, width, precision)


@pytest.mark.parametrize("cluster", [(2, 2), (1, 2), (4, 2), (2, 4), (8, 1)])
@pytest.mark.parametrize(
    ("late", "precision", "width"),
    [
        (0, "bfloat16", 300),
        (3, "bfloat16", 300),
        (5, "bfloat16", 380),
        (4, "float8", 140),
        (6, "int8", 140),
        (7, "bfloat16", 64),
    ],
)
def test_clusters_score_each_tile_once_and_the_same(
    cluster: tuple[int, int], late: int, precision: str, width: int
) -> None:
    """However late blocks, warps and what is asynchronous are. Tiles beyond the last are loaded and never scored."""
    module = TileModule(cluster=cluster, late=late, reverse=late % 2 == 1, blocks=1)
    before = module.plan.hopper_meetings()
    found = compared(module, *CLUSTERED, width, precision)
    walked = np.prod([-(-3 // blocks) * blocks for blocks in cluster])
    assert module.plan.hopper_meetings() - before == walked + 3 * 3
    assert torch.equal(found, alone(precision, width))


@pytest.mark.parametrize("precision", ["bfloat16", "float8", "int8"])
@pytest.mark.parametrize("stages", [1, 2, 5])
def test_a_cluster_is_right_whoever_is_late(precision: str, stages: int) -> None:
    """Tiles of few pairs, of which two stages are loaded while the pairs of the tile before are scored."""
    shape = PairScorer.scan_t2i(), (36,) * 13, (7, 8, 50), stages * (128 if precision in FORMATS else 64), precision
    wanted = compared(TileModule(cluster=(1, 1)), *shape)
    for late in range(10, 16):
        module = TileModule(cluster=(1, 2), late=late, reverse=late % 2 == 1, blocks=1)
        assert torch.equal(compared(module, *shape), wanted)
