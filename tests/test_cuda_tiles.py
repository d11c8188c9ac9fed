"""The kernels that multiply and score pairs: run on a model of the machine."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable

import pytest
import torch
from cancelling import check_opposite_vectors, check_regions_without_a_mean
from cuda_on_host import COMPILER, TileModule, engine_on_host
from problems import E4M3_ROUNDING, error, magnitude
from tiles_on_host import SCORERS, compared, items

from cmsei_fast.engines import cuda, cuda_tiles
from cmsei_fast.engines.eight_bits import FORMATS
from cmsei_fast.engines.terms import rounded_rows
from cmsei_fast.ops import pair_score
from cmsei_fast.scorer import NORMS, Attention, PairScorer

pytestmark = [
    pytest.mark.usefixtures("poisoned"),
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: the kernel cannot be run on the host"),
]

Make = Callable[..., TileModule]


@pytest.fixture(params=["hopper", "mma"])
def make(request: pytest.FixtureRequest) -> Make:
    return functools.partial(TileModule, request.param)


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


@pytest.mark.parametrize("name", ["cmsei", "bfan_prob", "steps"])
def test_sums_as_tensor_cores_make_them(make: Make, name: str) -> None:
    """They align what they add and cut off what is below; no more than float32's bits is the least that they keep."""
    shape = (36,) * 4, (13, 7, 30, 12)
    exact, cut = (compared(make(sum_bits=bits), SCORERS[name], *shape, 600) for bits in (0, 24))
    assert 0 < error(cut, exact) <= 1e-5 * magnitude(exact)  # as the test on a GPU allows


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


@pytest.mark.parametrize("aggregate", ["lse", "guided"])
@pytest.mark.parametrize("norm", NORMS)
def test_vectors_that_cancel_out(make: Make, norm: str, aggregate: str) -> None:
    with engine_on_host(make()):
        check_opposite_vectors(norm, aggregate, "cuda", torch.bfloat16)


@pytest.mark.parametrize("length", [1, 12, 16, 20])
def test_images_whose_regions_have_no_mean(make: Make, length: int) -> None:
    """Captions whose means ask in rows of no word, and one without such a row."""
    with engine_on_host(make()):
        check_regions_without_a_mean(length, "cuda", torch.bfloat16)


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
