"""The kernels that multiply and score pairs, of features of 8 bits: run on a model of the machine."""

from __future__ import annotations

import pytest
import torch
from cuda_on_host import COMPILER, TileModule, engine_on_host
from problems import E4M3_ROUNDING, error, magnitude
from tiles_on_host import SCORERS, compared, items

from cmsei_fast.engines import cuda_tiles
from cmsei_fast.engines.eight_bits import FORMATS
from cmsei_fast.ops import pair_score
from cmsei_fast.scorer import PairScorer

pytestmark = [
    pytest.mark.usefixtures("poisoned"),
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: the kernel cannot be run on the host"),
]


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
