"""The kernels that multiply and score pairs: run on a model of the machine, their plan and their maps."""

from __future__ import annotations

import ctypes
import functools
import importlib
import itertools
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cuda_on_host import COMPILER, TileCall, TileModule, TileOptions, TileRows, compiled, engine_on_host
from problems import E4M3_ROUNDING, error, magnitude

from cmsei_fast.engines import cuda, cuda_pair, cuda_tiles
from cmsei_fast.engines.eight_bits import FORMATS
from cmsei_fast.engines.terms import rounded_rows
from cmsei_fast.ops import pair_score
from cmsei_fast.scorer import Attention, PairScorer

pytestmark = [
    pytest.mark.usefixtures("poisoned"),
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: the kernel cannot be run on the host"),
]
ROWS, COLUMNS, PLANES = 64, 144, 160
CONFIG = tuple(PairScorer.cmsei().config()[: cuda_pair.OPTIONS])

KERNELS = ("hopper", "ampere")  # files of tests/native

Make = Callable[..., TileModule]


@pytest.fixture(params=["hopper", "mma"])
def make(request: pytest.FixtureRequest) -> Make:
    return functools.partial(TileModule, request.param)


@pytest.fixture
def library() -> ctypes.CDLL:
    return TileModule().plan


def items(lengths: tuple[int, ...], width: int, dtype: torch.dtype, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Packed features of the dtype's numbers, as float32, and offsets."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(sum(lengths), width, generator=generator).to(dtype).float()
    return rows, torch.tensor([0, *itertools.accumulate(lengths)])


def compared(
    module: TileModule,
    scorer: PairScorer,
    regions: tuple[int, ...],
    words: tuple[int, ...],
    width: int,
    precision: str = "bfloat16",
) -> torch.Tensor:
    """The kernel's scores, which must be the definition's on the same rounded features."""
    dtype = torch.float32 if precision in FORMATS else getattr(torch, precision)
    (v, v_offsets), (w, w_offsets) = items(regions, width, dtype, 1), items(words, width, dtype, 2)
    if precision in FORMATS:  # lengths of several powers of two
        v, w = (x * torch.logspace(-3, 3, len(x), 2)[:, None] for x in (v, w))
    inputs = v, w, v_offsets, w_offsets
    rounded = (rounded_rows(x, precision).double() for x in (v, w))
    wanted = pair_score(*rounded, v_offsets, w_offsets, scorer=scorer, engine="reference", precision="float64")
    with engine_on_host(module):
        found = pair_score(*inputs, scorer=scorer, engine="cuda", precision=precision)
    assert error(found, wanted) <= 2e-5 * magnitude(wanted)
    return found


SCORERS = {
    "cmsei": PairScorer.cmsei(),
    "scan_t2i": PairScorer.scan_t2i(),
    "scan_i2t": PairScorer.scan_i2t("max"),
    "chan": PairScorer.chan(),
    "bfan_prob": PairScorer.bfan("prob"),
    "naaf": PairScorer.naaf(0.2),
    "steps": PairScorer(Attention(steps=3, gates=((1.0, 0.5), (-0.5, 1.0))), Attention(aggregate="max")),
}


@pytest.mark.parametrize("name", SCORERS)
@pytest.mark.parametrize("precision", ["bfloat16", "float16", "float8", "int8"])
def test_the_kernel_matches_the_definition(make: Make, name: str, precision: str) -> None:
    module = make()
    compared(module, SCORERS[name], (36,) * 6, (13, 7, 30, 1, 20, 12), 72, precision)
    assert module.launches == 1
    assert not module.teams


@pytest.mark.parametrize(
    ("width", "precision"),
    [
        *((x, "bfloat16") for x in (1, 8, 64, 65, 256, 600)),
        *((x, "float8") for x in (1, 16, 127, 129, 700)),
        *((x, "int8") for x in (3, 16, 127, 129, 700)),
    ],
)
def test_any_width(make: Make, width: int, precision: str) -> None:
    compared(make(late=1), PairScorer.scan_t2i(), (36, 36, 36, 36, 36), (9, 40, 11, 5), width, precision)


@pytest.mark.parametrize(("precision", "number"), [("float8", 2), ("int8", 3)])
def test_numbers_of_8_bits_are_hoppers_alone(monkeypatch: pytest.MonkeyPatch, precision: str, number: int) -> None:
    """The numbers that the kernel takes, and what the other one takes in their place."""
    seen = []
    for name in ("hopper_scores", "ampere_scores"):
        launch = getattr(TileModule, name)
        monkeypatch.setattr(
            TileModule,
            name,
            lambda self, call, *rest, launch=launch: (
                seen.append((call.type, bool(call.words.scales))) or launch(self, call, *rest)
            ),
        )
    for kernel in ("hopper", "mma"):
        compared(TileModule(kernel), PairScorer.scan_t2i(), (36, 5), (9, 4), 40, precision)
    assert seen == [(number, True), (0, False)]


@pytest.mark.parametrize("precision", FORMATS)
def test_scales_of_which_only_the_product_leaves_the_range(precision: str) -> None:
    (v, v_offsets), (w, w_offsets) = (items((n,), 16, torch.float32, n) for n in (4, 3))
    v, w = v * 2.0**75, w * 2.0**75  # scales of at least 2⁶⁴
    v[:, ::2], w[:, 1::2] = 0, 0  # inner products of 0
    with engine_on_host(TileModule()):
        scores = pair_score(v, w, v_offsets, w_offsets, scorer=PairScorer.maxsim(), engine="cuda", precision=precision)
    assert torch.equal(scores, torch.zeros(1, 1))


@pytest.mark.parametrize("name", ["cmsei", "scan_t2i", "chan", "steps"])
def test_sums_of_the_bits_that_e4m3_instructions_keep(name: str) -> None:
    """What a GPU may differ by from every other machine, as its tests allow."""
    (v, v_offsets), (w, w_offsets) = (items((n,) * 4, 1024, torch.float32, n) for n in (36, 13))
    v, w = (torch.nn.functional.normalize(x + 0.5, dim=1) for x in (v, w))
    found = []
    for bits in (0, 14):
        with engine_on_host(TileModule(bits=bits)):
            inputs = v, w, v_offsets, w_offsets
            found.append(pair_score(*inputs, scorer=SCORERS[name], engine="cuda", precision="float8"))
    assert 0 < error(found[1], found[0]) <= E4M3_ROUNDING * magnitude(found[0])


@pytest.mark.parametrize("precision", FORMATS)
def test_8_bits_of_what_is_too_large_for_a_tile(precision: str) -> None:
    module = TileModule()
    compared(module, PairScorer.cmsei(), (36, 145, 36), (70, 13, 65, 8), 24, precision)
    assert module.launches == 1
    assert module.teams


def test_sums_of_whole_numbers_are_exact() -> None:
    """Though float32 would round them: 1,200 times 127 times 127 is more than 2²⁴, and so is what is taken off it."""
    v, w = (torch.full((n, 2401), 127.0) for n in (2, 3))
    v[:, 1200:2400] = -127
    v[:, 2400], w[:, 2400] = 1, 3
    with engine_on_host(TileModule()):
        offsets = (torch.tensor([0, n]) for n in (2, 3))
        found = pair_score(v, w, *offsets, scorer=PairScorer.maxsim("mean"), engine="cuda", precision="int8")
    assert found.item() == 3


def test_whole_numbers_whose_sums_may_not_fit_are_multiplied_as_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cuda_tiles.MOST_WHOLE * 127**2 < 2**31 <= (cuda_tiles.MOST_WHOLE + 1) * 127**2
    monkeypatch.setattr(cuda_tiles, "MOST_WHOLE", 24)
    for width, launches in ((24, 1), (25, 0)):
        module = TileModule()
        compared(module, PairScorer.scan_t2i(), (36, 5), (9, 4), width, "int8")
        assert module.launches == launches


def test_the_model_of_the_machine_reads_e4m3_as_torch_does(library: ctypes.CDLL) -> None:
    library.hopper_e4m3.restype = ctypes.c_float
    found = torch.tensor([library.hopper_e4m3(i) for i in range(256)])
    wanted = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    assert torch.equal(found.nan_to_num(nan=1e9), wanted.nan_to_num(nan=1e9))
    assert int(found.isnan().sum()) == 2


@pytest.mark.parametrize(
    ("regions", "words"),
    [
        ((1,), (1,)),
        ((1, 2, 3, 5, 144, 100, 44), (64, 1, 63, 2, 2)),
        ((37,) * 7, (64, 64)),
        ((2,) * 60, (1,) * 40),
        ((50, 94, 49, 95), (33, 32, 31)),
    ],
)
def test_odd_lengths(make: Make, regions: tuple[int, ...], words: tuple[int, ...]) -> None:
    module = make()
    compared(module, PairScorer.scan_t2i(), regions, words, 40)
    assert module.launches == 1


@pytest.mark.parametrize("norm", ["softmax", "clipped"])
def test_any_length_of_a_context(make: Make, norm: str) -> None:
    """Each number of tiles that the fragments of a warp come in, full and not, and contexts that do not fit them."""
    attention = Attention(temperature=3.0, norm=norm, steps=2, gates=((1.0, 0.5),))
    regions, words = (1, 16, 17, 33, 40, 41), (1, 16, 17, 35, 41)
    compared(make(), PairScorer(attention, attention), regions, words, 16)


CROSS = {
    "object_sentence": PairScorer(None, None, object_sentence=1.0, guide_temperature=0.5),
    "word_image": PairScorer(None, None, word_image=0.5, guide_temperature=60.0),
    "alignment": PairScorer(None, None, alignment=2.0),
    "guided": PairScorer(Attention(aggregate="guided"), Attention(aggregate="mean"), object_sentence=0.25),
}


@pytest.mark.parametrize("name", CROSS)
def test_terms_across_the_levels_of_any_lengths(make: Make, name: str) -> None:
    """Sizes around those of the warp's registers, and images that do not fit them."""
    compared(make(), CROSS[name], (1, 8, 9, 32, 33, 36, 40, 41), (1, 8, 9, 12, 16, 17, 32, 33, 64), 16)


def test_order_does_not_matter(make: Make) -> None:
    """One block or many, threads in either order, what is asynchronous at once or late: the same bits."""
    shape = PairScorer.cmsei(), (36,) * 5 + (20,), (13, 7, 30, 41, 64, 3), 300
    answers = [
        compared(make(blocks=blocks, reverse=reverse, late=late), *shape)
        for blocks, reverse, late in [(1, False, 0), (1, True, 1), (3, True, 0), (2, False, 7), (1, True, 8)]
    ]
    assert all(torch.equal(answers[0], other) for other in answers[1:])


@pytest.mark.parametrize(
    ("rows", "width"),
    [
        ({"data": 8, "stride": 16}, 8),
        ({"data": 16, "stride": 24}, 8),
        ({"data": 16, "stride": 16}, 9),
        ({"data": 16, "stride": 1 << 40}, 8),
        ({"data": 16, "stride": 16, "rows": 0}, 8),
    ],
)
def test_the_model_of_the_machine_refuses_what_tma_does(library: ctypes.CDLL, rows: dict[str, int], width: int) -> None:
    """So no launch of the other tests has an address, a stride or a size that it would not take."""
    operand = TileRows(**{"rows": 1} | rows)
    call = TileCall(CONFIG, width=width, regions=operand, words=operand)
    assert library.hopper_host(ctypes.byref(call), ctypes.byref(TileOptions(1, 0, 0, 0))) == -4


def test_what_is_too_large_for_a_tile_is_left_to_the_other_kernel(make: Make) -> None:
    module = make()
    compared(module, PairScorer.cmsei(), (36, 145, 36, 200), (70, 13, 65, 8, 9, 100), 24)
    assert module.launches == 1
    assert module.teams
    module = make()
    compared(module, PairScorer.scan_t2i(), (145,), (13,), 24)
    assert module.launches == 0


@pytest.mark.parametrize("precision", ["bfloat16", "float8", "int8"])
def test_nan_is_not_hidden_nor_spread(make: Make, precision: str) -> None:
    (v, v_offsets), (w, w_offsets) = items((36,) * 5, 16, torch.bfloat16, 1), items((5, 6, 7), 16, torch.bfloat16, 2)
    v[40, 3] = w[7, 1] = torch.nan
    with engine_on_host(make()):
        out = pair_score(v, w, v_offsets, w_offsets, scorer=PairScorer.cmsei(), engine="cuda", precision=precision)
    bad = torch.zeros(5, 3, dtype=torch.bool)
    bad[1] = bad[:, 1] = True
    assert torch.equal(out.isnan(), bad)


def test_strides_and_addresses_that_the_kernels_do_not_take(make: Make) -> None:
    (v, v_offsets), (w, w_offsets) = items((36, 5), 24, torch.bfloat16, 1), items((4, 9), 24, torch.bfloat16, 2)
    odd = [torch.full((len(x), 27), torch.nan, dtype=torch.bfloat16)[:, 1:25] for x in (v, w)]
    for x, y in zip(odd, (v, w), strict=True):
        x.copy_(y)
    with engine_on_host(make()):
        run = [
            pair_score(*rows, v_offsets, w_offsets, scorer=PairScorer.cmsei(), engine="cuda", precision="bfloat16")
            for rows in ((v, w), odd)
        ]
    assert torch.equal(*run)


def test_which_kernel_and_why() -> None:
    both, plain = (SimpleNamespace(architectures=x, ampere_bytes=lambda: 164 * 1024) for x in ("80;90a", "80;90"))
    h100, a100, l4 = ((9, 0), 228 * 1024), ((8, 0), 164 * 1024), ((8, 9), 100 * 1024)
    assert cuda_tiles.choose(both, "bfloat16", *h100) == ("hopper", "")
    assert cuda_tiles.choose(both, "float32", *h100) == ("library", "features are float32, not of 16 bits")
    for module, gpu, kernel, why in [
        (plain, h100, "mma", "without the architecture 90a"),
        (both, a100, "mma", "capability is 8.0, not 9.0"),
        (both, l4, "library", "capability is 8.9, not 9.0, and a multiprocessor has 102400 bytes"),
    ]:
        found = cuda_tiles.choose(module, "float16", *gpu)
        assert found.kernel == kernel
        assert why in found.reason


def test_doctor_tells_the_kernel() -> None:
    with engine_on_host(TileModule()):
        assert cuda.limits().startswith("16-bit scores by TMA and wgmma; ")
    with engine_on_host(TileModule("mma")):
        assert cuda.limits().startswith("16-bit scores by mma.sync (the GPU's compute capability is 8.0, not 9.0); ")


def lengths() -> list[tuple[list[int], list[int]]]:
    """Lengths of images and captions: the usual, each alone, and drawn."""
    draw = random.Random(0)
    cases = [([36] * n, [m] * 7) for n in (1, 3, 4, 5, 9) for m in (1, 12, 13, 63, 64, 65)]
    cases += [([n] * 6, [5, 70, 3]) for n in (1, 2, 37, 48, 72, 73, 143, 144, 145)]
    for _ in range(60):
        images = [draw.choice((1, 2, 20, 36, 36, 50, 100, 144, 150)) for _ in range(draw.randint(1, 30))]
        cases.append((images, [draw.choice((1, 2, 9, 13, 30, 64, 65)) for _ in range(draw.randint(1, 30))]))
    return cases


def bounds(lengths: list[int]) -> list[int]:
    return [0, *itertools.accumulate(lengths)]


def stride(regions: int) -> int:
    """Of an image's block: an odd number of eights that fit it, or an odd number where no fragment holds it."""
    eights = -(-regions // 8)
    return 8 * (eights | 1) if regions <= 40 else 8 * eights + 1


def test_every_pair_that_fits_belongs_to_one_tile_of_one_block(make: Make) -> None:
    module = make()
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


def test_a_large_image_takes_no_memory_from_the_pairs_of_others(make: Make) -> None:
    module = make()
    hopper, captions = module.kernel == "hopper", [13] * 20
    alone, beside = (
        module.pair_tiles(CONFIG, hopper, bounds(x), bounds(captions)) for x in ([36] * 9, [36] * 9 + [144])
    )
    assert [x[3:5] for x in alone[1]] == [x[3:5] for x in beside[1]]
    assert all(teams == 4 for _, _, _, teams, *_ in alone[1])
    assert [kind for _, _, kind, *_ in beside[0]] == [0, 0, 0, 1]


@pytest.mark.skipif(importlib.util.find_spec("cmsei_fast._cuda") is None, reason="cmsei_fast._cuda is not built")
def test_the_module_makes_the_same_tiles_and_refuses_other_devices(make: Make) -> None:
    module = importlib.import_module("cmsei_fast._cuda")
    for images, captions in lengths()[:20]:
        sizes = CONFIG, make().kernel == "hopper", bounds(images), bounds(captions)
        assert tuple([tuple(t) for t in x] for x in module.pair_tiles(*sizes)) == make().pair_tiles(*sizes)
    items = {"images": module.PairItems(offsets=1), "captions": module.PairItems(means=2)}
    rows = {name: module.TileRows(data=1, stride=16, rows=1) for name in ("regions", "words")}
    call = module.TileCall(config=CONFIG, **items, **rows, image_tile_count=1, caption_tile_count=1)
    if cuda.unavailable() is not None:
        for launch in (module.hopper_scores, module.ampere_scores):
            with pytest.raises(RuntimeError, match=r"pair_score: CUDA error \d+ \(.+\) while choosing the device"):
                launch(call, 0, 0)
    assert module.ampere_bytes() == make().ampere_bytes()


def test_stages_lie_apart_and_where_the_swizzle_begins(library: ctypes.CDLL) -> None:
    size, end = library.hopper_stage_bytes(), library.hopper_work_bytes()
    places = [library.hopper_stage(i) for i in range(library.hopper_stages())]
    assert all(place % 1024 == 0 for place in places)
    assert all(before - place >= size for before, place in itertools.pairwise(places))
    assert places[-1] >= 0
    assert places[0] + size <= end


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


SHAPES = [(captions, images) for captions in (1, 2, 4, 8) for images in (1, 2, 4, 8) if captions * images <= 8]


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


def test_fragments_lie_as_the_instruction_set_documents(library: ctypes.CDLL) -> None:
    """Figure "WGMMA .m64nNk16 register fragment layout for accumulator matrix D" of the PTX ISA."""
    places = {
        (t, i): (library.hopper_fragment(t, i, 0), library.hopper_fragment(t, i, 1))
        for t in range(128)
        for i in range(72)
    }
    assert sorted(places.values()) == list(itertools.product(range(64), range(144)))
    documented = {
        (0, 0): (0, 0),
        (0, 1): (0, 1),
        (0, 2): (8, 0),
        (0, 3): (8, 1),
        (0, 4): (0, 8),
        (1, 0): (0, 2),
        (3, 1): (0, 7),
        (4, 0): (1, 0),
        (31, 0): (7, 6),
        (31, 3): (15, 7),
        (32, 0): (16, 0),
        (64, 2): (40, 0),
        (127, 71): (63, 143),
    }
    assert {key: places[key] for key in documented} == documented


def test_the_descriptor_has_its_fields_where_the_instruction_set_documents_them(library: ctypes.CDLL) -> None:
    for address in (0, 1024, 26624 * 3 + 8192, 227 * 1024):
        number = library.hopper_descriptor(address)
        assert number & 0x3FFF == address >> 4
        assert number >> 16 & 0x3FFF == 1
        assert number >> 32 & 0x3FFF == 1024 >> 4
        assert number >> 49 & 7 == 0
        assert number >> 62 == 1  # 128-byte swizzle


@pytest.mark.gpu
@pytest.mark.skipif(cuda.unavailable() is not None, reason="no CUDA GPU, or no CUDA module")
@pytest.mark.parametrize("precision", ["bfloat16", "float16", "float8", "int8"])
def test_gpu_agrees_with_the_library(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    best = cuda._tiles(precision, torch.device("cuda"))
    if best.kernel == "library":
        pytest.skip(best.reason)
    kernel = "hopper"

    def choose(*_: object) -> cuda_tiles.Choice:
        return cuda_tiles.Choice(kernel, "as the test wants")

    monkeypatch.setattr(cuda_tiles, "choose", choose)
    draw = random.Random(1)
    for images, width in (([36] * 50, 1024), ([draw.choice((1, 20, 36, 50, 144, 150)) for _ in range(40)], 100)):
        captions = [draw.randint(1, 66) for _ in range(300)]
        dtype = torch.float32 if precision in FORMATS else getattr(torch, precision)
        (v, v_offsets), (w, w_offsets) = items(tuple(images), width, dtype, 1), items(tuple(captions), width, dtype, 2)
        inputs = v.cuda(), w.cuda(), v_offsets, w_offsets
        for scorer in SCORERS.values():
            kernel = "library"
            wanted = pair_score(*inputs, scorer=scorer, engine="cuda", precision=precision)
            for kernel in {best.kernel, "mma"}:
                once, again = (pair_score(*inputs, scorer=scorer, engine="cuda", precision=precision) for _ in range(2))
                assert torch.equal(once, again)
                limit = E4M3_ROUNDING if precision == "float8" and kernel == "hopper" else 1e-5
                assert error(once, wanted) <= limit * magnitude(wanted), kernel


def test_fragments_of_mma_lie_as_the_instruction_set_documents() -> None:
    """Each number of a tile is one thread's, at its row and column of m16n8k16 in its warp's part."""
    library = TileModule().mma
    places = {
        (t, m, n, i): (library.ampere_fragment(t, m, n, i, 0), library.ampere_fragment(t, m, n, i, 1))
        for t, m, n, i in itertools.product(range(128), range(2), range(9), range(4))
    }
    assert sorted(places.values()) == list(itertools.product(range(64), range(144)))
    for (t, m, n, i), (row, column) in places.items():
        assert row == 32 * (t // 64) + 16 * m + t % 32 // 4 + (8 if i >= 2 else 0)
        assert column == 72 * (t // 32 % 2) + 8 * n + 2 * (t % 4) + (i & 1)


def test_kernels_under_sanitizers(tmp_path: Path) -> None:
    """What leaves shared memory, which is of exact size, or is undefined, ends the process."""
    runtimes = [
        subprocess.run(
            [str(COMPILER), f"-print-file-name={x}.so"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for x in ("libasan", "libubsan")
    ]
    if not all(Path(x).is_absolute() for x in runtimes):
        pytest.skip("the compiler has no sanitizers to preload")
    flags = "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"
    libraries = {f"CMSEI_HOST_{x.upper()}": str(compiled(f"{x}_host.cpp", tmp_path, *flags)) for x in KERNELS}
    code = (
        "from test_cuda_tiles import *\n"
        "for run in 'hopper bfloat16', 'hopper float8', 'hopper int8', 'mma bfloat16':\n"
        "    kernel, precision = run.split()\n"
        "    module = TileModule(kernel, late=1, blocks=2, reverse=True)\n"
        "    compared(module, SCORERS['cmsei'], (36,) * 4 + (20,), (13, 40, 12), 72, precision)\n"
        "print('done')"
    )
    environment = os.environ | libraries | {"LD_PRELOAD": " ".join(runtimes), "ASAN_OPTIONS": "detect_leaks=0"}
    environment |= {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "done"
