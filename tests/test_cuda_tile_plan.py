"""Where tiles, their products, stages and clusters lie and who takes them: the plans of the kernels that multiply and
score pairs, by enumeration."""

from __future__ import annotations

import ctypes
import importlib
import itertools
import random

import numpy as np
import pytest
from cuda_on_host import COMPILER, TileModule, bounds
from tiles_on_host import CONFIG

from cmsei_fast.engines import cuda

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: the plans cannot be run on the host")
ROWS, COLUMNS, PLANES = 64, 144, 160
SHAPES = [(captions, images) for captions in (1, 2, 4, 8) for images in (1, 2, 4, 8) if captions * images <= 8]


@pytest.fixture
def library() -> ctypes.CDLL:
    return TileModule().plan


def lengths() -> list[tuple[list[int], list[int]]]:
    """Lengths of images and captions: the usual, each alone, and drawn."""
    draw = random.Random(0)
    cases = [([36] * n, [m] * 7) for n in (1, 3, 4, 5, 9) for m in (1, 12, 13, 63, 64, 65)]
    cases += [([n] * 6, [5, 70, 3]) for n in (1, 2, 37, 48, 72, 73, 143, 144, 145)]
    for _ in range(60):
        images = [draw.choice((1, 2, 20, 36, 36, 50, 100, 144, 150)) for _ in range(draw.randint(1, 30))]
        cases.append((images, [draw.choice((1, 2, 9, 13, 30, 64, 65)) for _ in range(draw.randint(1, 30))]))
    return cases


def stride(regions: int) -> int:
    """Of an image's block: an odd number of eights that fit it, or an odd number where no fragment holds it."""
    eights = -(-regions // 8)
    return 8 * (eights | 1) if regions <= 40 else 8 * eights + 1


@pytest.mark.parametrize("kernel", ["hopper", "mma"])
def test_every_pair_that_fits_belongs_to_one_tile_of_one_block(kernel: str) -> None:
    module = TileModule(kernel)
    for images, captions in lengths():
        hopper = module.kernel == "hopper"
        tiles = module.pair_tiles(CONFIG, hopper, bounds(images), bounds(captions))
        for found, own, most, fits in zip(tiles, (images, captions), (COLUMNS, ROWS), (144, 64), strict=True):
            counts = np.zeros(len(own), int)
            for first, last, *_ in found:
                assert 0 < sum(own[first:last]) <= most
                counts[first:last] += 1
            if own is images:
                assert counts.tolist() == [int(n <= fits) for n in own]
                assert all(sum(stride(n) for n in own[first:last]) <= PLANES for first, last, *_ in found)
            else:
                assert all(count <= (n <= fits) for count, n in zip(counts, own, strict=True))
                if max(images) <= 36:
                    assert counts.tolist() == [int(n <= fits) for n in own]
        config = (ctypes.c_int64 * len(CONFIG))(*CONFIG)
        for (first, last, kind, *_), (start, end, _, *shares) in itertools.product(*tiles):
            assert {kind} == {int(n > 40) for n in images[first:last]}
            teams, room = shares[2 * kind : 2 * kind + 2]
            assert 1 <= teams <= 4
            sizes = ctypes.c_int64(max(images[first:last])), ctypes.c_int64(max(captions[start:end]))
            assert module.plan.tile_team_bytes(config, *sizes) <= room
            assert room % 16 == 0
            assert teams * room <= module.plan.tile_room(int(hopper))


@pytest.mark.parametrize("kernel", ["hopper", "mma"])
def test_a_large_image_takes_no_memory_from_the_pairs_of_others(kernel: str) -> None:
    module = TileModule(kernel)
    hopper, captions = module.kernel == "hopper", [13] * 20
    alone, beside = (
        module.pair_tiles(CONFIG, hopper, bounds(x), bounds(captions)) for x in ([36] * 9, [36] * 9 + [144])
    )
    assert [x[3:5] for x in alone[1]] == [x[3:5] for x in beside[1]]
    assert all(teams == 4 for _, _, _, teams, *_ in alone[1])
    assert [kind for _, _, kind, *_ in beside[0]] == [0, 0, 0, 1]


@pytest.mark.skipif(importlib.util.find_spec("cmsei_fast._cuda") is None, reason="cmsei_fast._cuda is not built")
@pytest.mark.parametrize("kernel", ["hopper", "mma"])
def test_the_module_makes_the_same_tiles_and_refuses_other_devices(kernel: str) -> None:
    module = importlib.import_module("cmsei_fast._cuda")
    for images, captions in lengths()[:20]:
        sizes = CONFIG, TileModule(kernel).kernel == "hopper", bounds(images), bounds(captions)
        assert tuple([tuple(t) for t in x] for x in module.pair_tiles(*sizes)) == TileModule(kernel).pair_tiles(*sizes)
    items = {"images": module.PairItems(offsets=1), "captions": module.PairItems(means=2)}
    rows = {name: module.TileRows(data=1, stride=16, rows=1) for name in ("regions", "words")}
    call = module.TileCall(config=CONFIG, **items, **rows, image_tile_count=1, caption_tile_count=1)
    if cuda.unavailable() is not None:
        for launch in (module.hopper_scores, module.ampere_scores):
            with pytest.raises(RuntimeError, match=r"pair_score: CUDA error \d+ \(.+\) while choosing the device"):
                launch(call, 0, 0)
    assert module.ampere_bytes() == TileModule(kernel).ampere_bytes()


def test_stages_lie_apart_and_where_the_swizzle_begins(library: ctypes.CDLL) -> None:
    size, end = library.hopper_stage_bytes(), library.hopper_work_bytes()
    places = [library.hopper_stage(i) for i in range(library.hopper_stages())]
    assert all(place % 1024 == 0 for place in places)
    assert all(before - place >= size for before, place in itertools.pairwise(places))
    assert places[-1] >= 0
    assert places[0] + size <= end


def test_blocks_of_a_cluster_load_every_row_once_into_every_block(library: ctypes.CDLL) -> None:
    for captions, images in SHAPES:
        blocks = captions * images
        boxes, counts = np.zeros(2, np.int32), np.zeros((blocks, 4, ROWS + COLUMNS), np.int32)
        peers = np.zeros((blocks, blocks), np.int32)
        library.cluster_loads(captions, images, *(x.ctypes.data_as(ctypes.c_void_p) for x in (boxes, counts, peers)))
        assert (counts == 1).all()
        assert (boxes % 8 == 0).all()
        for a, b in itertools.product(range(blocks), repeat=2):  # of one row or one column
            assert peers[a, b] == int(a // images == b // images or a % images == b % images)


def test_clusters_walk_over_each_tile_once(library: ctypes.CDLL) -> None:
    for captions, images in SHAPES:
        for image_tiles, caption_tiles in itertools.product((1, 2, 7, 33), (1, 2, 31, 32, 33, 64, 100)):
            for clusters in (1, 3, 132 // (captions * images)):
                counts = np.zeros((image_tiles, caption_tiles), np.int32)
                sizes = (ctypes.c_int64(x) for x in (image_tiles, caption_tiles, clusters))
                assert library.cluster_cover(captions, images, *sizes, counts.ctypes.data_as(ctypes.c_void_p)) == 0
                assert (counts == 1).all()


def test_a_launch_has_few_blocks_without_a_tile(library: ctypes.CDLL) -> None:
    for most in (1, 2, 4, 8):
        found = [library.cluster_fitting(ctypes.c_int64(tiles), most) for tiles in range(1, 100)]
        assert all(-(-tiles // blocks) * blocks * 8 <= 9 * tiles for tiles, blocks in enumerate(found, 1))
        assert all(blocks == most for tiles, blocks in enumerate(found, 1) if tiles % most == 0 or tiles >= 8 * most)


def test_blocks_walk_over_each_tile_once(library: ctypes.CDLL) -> None:
    for image_tiles, caption_tiles in itertools.product((1, 2, 7, 33), (1, 2, 31, 32, 33, 64, 100)):
        for blocks in (1, 3, 264):
            counts = np.zeros((image_tiles, caption_tiles), np.int32)
            sizes = (ctypes.c_int64(x) for x in (image_tiles, caption_tiles, blocks))
            library.tile_cover(*sizes, counts.ctypes.data_as(ctypes.c_void_p))
            assert (counts == 1).all()


def test_few_teams_are_divided_by_any_number_of_images(library: ctypes.CDLL) -> None:
    for teams, images in itertools.product(range(5), range(1, COLUMNS + 1)):
        assert library.tile_quotient(teams, images) == teams // images


@pytest.mark.parametrize("pads", [False, True])
def test_every_product_of_a_tile_has_a_place_of_its_own(library: ctypes.CDLL, pads: bool) -> None:
    lengths = [36] * 4, [144], [50, 20, 3], [37, 37, 36, 1], *([[1] * 20, [2] * 20] if pads else [[1] * 144, [2] * 49])
    for own in lengths:
        offsets = (ctypes.c_int64 * (len(own) + 3))(*bounds([9, *own, 5]))
        places = np.zeros((ROWS, COLUMNS), np.int32)
        library.tile_places(int(pads), offsets, 1, 1 + len(own), places.ctypes.data_as(ctypes.c_void_p))
        used = places[:, : sum(own)]
        assert len(np.unique(used)) == used.size
        assert used.min() >= 0
        assert used.max() < library.tile_product_numbers()
        assert (places[:, sum(own) :] == -1).all()
        start = 0
        for n in own:  # an image's block is rows of one stride
            block = places[:, start : start + n]
            assert (np.diff(block, axis=1) == 1).all()
            assert (np.diff(block, axis=0) == (stride(n) if pads else n | 1)).all()
            start += n
