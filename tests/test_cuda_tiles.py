"""The kernels that multiply and score pairs: run on a model of the machine."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
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
from cuda_on_host import COMPILER, TileCall, TileModule, TileOptions, TileRows, bounds, compiled, engine_on_host
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


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_long_vectors(make: Make, precision: str) -> None:
    """Those of docs/scores.md at the highest temperature whose weights are divided by their sum at the end, if at all.

    A device's division is none by more than 2^126.
    """
    (v, v_offsets), (w, w_offsets) = (items(n, 32, torch.float32, len(n)) for n in ((36, 20, 5), (13, 1, 7, 1)))
    v, w = (rounded_rows(1e4 * torch.nn.functional.normalize(x, dim=1), precision) for x in (v, w))
    v[:36] = v[:1]  # all weights are the largest
    for scorer in (PairScorer(*2 * (Attention(temperature=30.0),)), PairScorer.cmsei()):
        given = v_offsets, w_offsets
        wanted = pair_score(v.double(), w.double(), *given, scorer=scorer, engine="reference", precision="float64")
        with engine_on_host(make()):
            found = pair_score(v, w, *given, scorer=scorer, engine="cuda", precision=precision)
        assert error(found, wanted) <= 2e-5 * magnitude(wanted)


@pytest.mark.parametrize("temperature", [12.0, 30.0])
def test_long_vectors_near_the_means_that_guide(make: Make, temperature: float) -> None:
    """Whose weights across the levels are all the largest: divided by their sum at the end, they must leave room."""
    scorer = dataclasses.replace(PairScorer.cmsei(), guide_temperature=temperature)
    (v, v_offsets), (w, w_offsets) = (items(n, 32, torch.bfloat16, len(n)) for n in ((36, 20), (13, 20, 7)))
    v, w = ((1e6 * torch.nn.functional.normalize(x + 3, dim=1)).bfloat16().float() for x in (v, w))
    v[:36] = w[:33] = v[:1]
    given = v_offsets, w_offsets
    wanted = pair_score(v.double(), w.double(), *given, scorer=scorer, engine="reference", precision="float64")
    with engine_on_host(make()):
        found = pair_score(v, w, *given, scorer=scorer, engine="cuda", precision="bfloat16")
    assert error(found, wanted) <= 2e-5 * magnitude(wanted)


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


@pytest.mark.parametrize("name", ["cmsei", "bfan_prob", "steps"])
def test_sums_as_tensor_cores_make_them(make: Make, name: str) -> None:
    """They align what they add and cut off what is below; no more than float32's bits is the least that they keep."""
    shape = (36,) * 4, (13, 7, 30, 12)
    exact, cut = (compared(make(sum_bits=bits), SCORERS[name], *shape, 600) for bits in (0, 24))
    assert 0 < error(cut, exact) <= 1e-5 * magnitude(exact)  # as the test on a GPU allows


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


@pytest.mark.parametrize("temperature", [4.0, 30.0])
@pytest.mark.parametrize("short", [0.0, 1e-10, 1e-8, 1e-5])
def test_vectors_so_short_that_epsilon_counts(make: Make, short: float, temperature: float) -> None:
    """Where attended vectors must be divided by the sum of their weights, and beside pairs where they need not be."""
    attention = Attention(temperature=temperature, aggregate="sum", steps=2, gates=((1.0, 0.5),))
    scorer = PairScorer(attention, attention)
    v, v_offsets = items((36, 36, 20), 16, torch.bfloat16, 1)
    w, w_offsets = items((12, 9, 5), 16, torch.bfloat16, 2)
    v[30:72] *= short  # the last six regions of one image, all of another
    w[10:21] *= short
    v, w = (x.bfloat16().float() for x in (v, w))
    offsets = v_offsets, w_offsets
    wanted = pair_score(v.double(), w.double(), *offsets, scorer=scorer, engine="reference", precision="float64")
    with engine_on_host(make()):
        found = pair_score(v, w, *offsets, scorer=scorer, engine="cuda", precision="bfloat16")
    assert error(found, wanted) <= 2e-5 * magnitude(wanted)


def test_the_usual_of_any_length(make: Make) -> None:
    """The forms that are compiled for what most scorers ask for, two and three eights of words, to their ends."""
    refined = Attention(steps=2, gates=((1.0, 0.5),))
    regions, words = (1, 16, 17, 24, 25, 32, 33, 36, 40, 41), (8, 16, 17, 20, 23, 24, 25)
    compared(make(), PairScorer(refined, refined), regions, words, 16)
    compared(make(), PairScorer(refined, None), regions, words, 16)
    compared(make(), PairScorer(Attention(), Attention(aggregate="max")), regions, words, 16)


CROSS = {
    "object_sentence": PairScorer(None, None, object_sentence=1.0, guide_temperature=0.5),
    "word_image": PairScorer(None, None, word_image=0.5, guide_temperature=60.0),
    "alignment": PairScorer(None, None, alignment=2.0),
    "guided": PairScorer(Attention(aggregate="guided"), Attention(aggregate="mean"), object_sentence=0.25),
}


@pytest.mark.parametrize("name", CROSS)
def test_terms_across_the_levels_of_any_lengths(make: Make, name: str) -> None:
    """Sizes around those of the warp's registers, and images that do not fit them."""
    compared(make(), CROSS[name], (1, 8, 9, 32, 33, 36, 40, 41), (1, 8, 9, 12, 16, 17, 24, 25, 32, 33, 64), 16)


@pytest.mark.parametrize(
    "scorer",
    [
        PairScorer.cmsei(),
        dataclasses.replace(PairScorer.cmsei(), word_image=0.0, alignment=0.0, guide_temperature=12.0),
        dataclasses.replace(PairScorer.cmsei(), object_sentence=0.25, word_image=3.0, guide_temperature=12.5),
        PairScorer(
            Attention(0.5, 30.0, "l2norm", "guided"),
            Attention(2.0, 4.0, aggregate="guided", steps=3, gates=((4.0, -2.0), (-3.0, 1.0))),
            word_image=1.0,
        ),
    ],
    ids=["cmsei", "regions", "sharp", "unlike"],
)
def test_means_that_ask_in_rows_of_no_query(make: Make, scorer: PairScorer) -> None:
    """Pairs that have such rows and, beside them, those that just have not."""
    compared(make(), scorer, (33, 36, 39, 40, 32, 38), (1, 8, 15, 16, 17, 20, 23, 24, 12, 7), 40)


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
