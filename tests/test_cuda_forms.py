"""Which form of the pair score the tiles' kernels take: the choice, of every size, and that it is the one they run."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from cuda_on_host import COMPILER, TileModule, engine_on_host

from cmsei_fast.engines import cuda_pair
from cmsei_fast.ops import pair_score
from cmsei_fast.scorer import ATTENDS, GUIDE_TEMPERATURE, I2T_TEMPERATURE, NORMS, T2I_TEMPERATURE, PairScorer

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: the kernels cannot be run on the host")
REGIONS, WORDS, LANES = 144, 64, 32  # a tile's most, and a warp's
CMSEI = PairScorer.cmsei()
MOST, MOST_ACROSS = 30.0, 12.0  # temperatures

# Where both sides leave a row of eights free: (regions, words), from 1 on.
ROOM = np.zeros((REGIONS, WORDS), bool)
ROOM[33 - 1 : 39] = True
ROOM[:, 16 - 1] = ROOM[:, 24 - 1 :] = False


def beside(config: list[int], scalars: list[float]) -> np.ndarray:
    """(regions, words): whether the kernels would have a pair's means ask in its spare rows."""
    out = np.full((REGIONS, WORDS), 2, np.uint8)
    numbers = (ctypes.c_int64 * cuda_pair.OPTIONS)(*config[: cuda_pair.OPTIONS])
    floats = (ctypes.c_float * len(scalars))(*scalars)
    TileModule().plan.tile_beside(numbers, floats, REGIONS, WORDS, out.ctypes.data_as(ctypes.c_void_p))
    assert out.max() <= 1
    return out.astype(bool)


def of(scorer: PairScorer) -> np.ndarray:
    return beside(scorer.config(), scorer.scalars())


def with_directions(**changes: object) -> list[PairScorer]:
    """CMSEI with these changes of t2i, of i2t and of both."""
    t2i, i2t = (dataclasses.replace(x, **changes) for x in (CMSEI.t2i, CMSEI.i2t))
    return [dataclasses.replace(CMSEI, **x) for x in ({"t2i": t2i}, {"i2t": i2t}, {"t2i": t2i, "i2t": i2t})]


def test_means_ask_beside_where_there_is_room_on_both_sides() -> None:
    assert ROOM.sum() == 7 * (15 + 7)
    assert (of(CMSEI) == ROOM).all()


def test_cross_level_terms_are_asked_beside_or_left_out() -> None:
    for terms in range(8):
        weights = {x: float(terms >> i & 1) for i, x in enumerate(("object_sentence", "word_image", "alignment"))}
        assert (of(dataclasses.replace(CMSEI, **weights)) == ROOM).all(), weights
    for steps in range(1, 9):
        assert all((of(x) == ROOM).all() for x in with_directions(steps=steps, gates=())), steps


@pytest.mark.parametrize(
    ("place", "most"), [(GUIDE_TEMPERATURE, MOST_ACROSS), (T2I_TEMPERATURE, MOST), (I2T_TEMPERATURE, MOST)]
)
def test_means_ask_beside_up_to_temperatures_that_need_no_maximum(place: int, most: float) -> None:
    above = float(np.nextafter(np.float32(most), np.float32(math.inf)))
    for sign in (1.0, -1.0):  # operators take scalars of any sign
        for temperature in (
            0.0,
            1e-30,
            0.5,
            4.0,
            9.0,
            most - 1e-3,
            most,
            above,
            most + 1,
            60.0,
            1e30,
            math.inf,
            math.nan,
        ):
            scalars = CMSEI.scalars()
            scalars[place] = sign * temperature
            assert (beside(CMSEI.config(), scalars) == (ROOM & (temperature <= most))).all(), temperature


def test_means_ask_beside_in_no_other_kind_of_scorer() -> None:
    for norm in NORMS:
        allowed = norm in ("l2norm", "clipped_l2norm")
        assert all((of(x) == (ROOM & allowed)).all() for x in with_directions(norm=norm)), norm
    others = [{"attend": x} for x in ATTENDS if x not in ("softmax", "negative_aware")]
    others += [{"attend": "negative_aware", "steps": 1, "gates": ()}, {"relevance": "dot"}, {"weight": 0.0}]
    others += [{"aggregate": x} for x in ("mean", "sum", "max", "lse")]
    for changes in others:
        assert not any(of(x).any() for x in with_directions(**changes)), changes
    assert not of(dataclasses.replace(CMSEI, t2i=None)).any()
    assert not of(dataclasses.replace(CMSEI, i2t=None)).any()


def packed(lengths: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(len(lengths))
    offsets = torch.tensor([0, *np.cumsum(lengths)])
    return torch.randn(sum(lengths), 16, generator=generator).bfloat16().float(), offsets


# All sizes around those of which means ask beside, and some far from them.
IMAGES, CAPTIONS = (1, 31, *range(32, 42), 100), (*range(1, 27), 40, 64)


@pytest.mark.parametrize("kernel", ["hopper", "mma"])
@pytest.mark.parametrize(
    ("scorer", "asks"),
    [
        (CMSEI, True),
        (dataclasses.replace(CMSEI, guide_temperature=MOST_ACROSS), True),
        (dataclasses.replace(CMSEI, guide_temperature=MOST_ACROSS + 0.5), False),
        (with_directions(temperature=MOST + 1)[0], False),
        (PairScorer.laps(), False),
    ],
    ids=["cmsei", "sharpest", "sharper", "sharp t2i", "unguided"],
)
def test_the_kernels_take_the_form_that_is_chosen(kernel: str, scorer: PairScorer, asks: bool) -> None:
    """Pairs counted as they run: those of two eights of words, and of three."""
    module = TileModule(kernel)
    counted: Callable[[int], int] = module.plan.hopper_counted if kernel == "hopper" else module.mma.ampere_counted
    before = [counted(way) for way in range(2)]
    images, captions = (IMAGES, CAPTIONS) if asks else ((33, 36), (12, 20))
    (v, v_offsets), (w, w_offsets) = packed(images), packed(captions)
    score = functools.partial(pair_score, v, w, v_offsets, w_offsets, engine="cuda", precision="bfloat16")
    with engine_on_host(module):
        assert not score(scorer=scorer).isnan().any()
    assert module.launches == 1
    found = [counted(way) - before[way] for way in range(2)]
    chosen = of(scorer)[np.subtract(images, 1)][:, np.subtract(captions, 1)]
    few = np.array([n < 16 for n in captions])
    assert found == [LANES * int(chosen[:, few].sum()), LANES * int(chosen[:, ~few].sum())]
    assert found == ([LANES * 7 * 15, LANES * 7 * 7] if asks else [0, 0])
