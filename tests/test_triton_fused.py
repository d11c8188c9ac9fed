"""The pair score in one persistent kernel: interpreted under every engine's tests, compiled, and chosen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from problems import offsets
from triton_compiler import OLDER, SHARED, Compiled, build
from triton_here import QUICKLY, TESTS, interpreted, no_interpreter, too_old

from cmsei_fast import PairScorer, engines
from cmsei_fast.engines import triton as engine
from cmsei_fast.engines import triton_design, triton_fused, triton_pair
from cmsei_fast.engines.triton_fused import STAGES, TILES, Tile, depth_block, form, fused_options, too_large
from cmsei_fast.engines.triton_launch import launch
from cmsei_fast.engines.triton_sides import MAX_ROWS, layout, product_precision

compiles = pytest.mark.skipif(
    engine.interpreted() or too_old() is not None,
    reason=too_old() or "Triton interprets its kernels in this process",
)
interprets = pytest.mark.skipif(no_interpreter() is not None, reason=str(no_interpreter()))
SCAN, CMSEI = PairScorer.scan_t2i(), PairScorer.cmsei()


def every_engine() -> str:
    """What pytest prints about every test that computes a score: float32, float64, and features of 16 bits."""
    wanted = "float64_against or float32_against or low_precision or precision_rounds or nan"
    options = ("-q", "-p", "no:cacheprovider", "-k", wanted)
    return interpreted("-m", "pytest", str(TESTS / "test_pair_score.py"), *options, CMSEI_TRITON_DESIGN="fused")


@interprets
@pytest.mark.beside(work=every_engine)
def test_as_every_engine(outcome: str) -> None:
    """With the design forced."""
    passed = re.search(r"(\d+) passed", outcome)
    assert passed is not None, outcome
    assert int(passed[1]) >= 12, outcome


@interprets
@pytest.mark.beside(work=lambda: interpreted("-c", QUICKLY + MANY_TILES, CMSEI_TRITON_DESIGN="fused"))
def test_many_tiles(outcome: str) -> None:
    """More tiles than programs, than a band and than a launch hold, of several padded sizes, the last ones not full."""
    assert "ok 30" in outcome


MANY_TILES = """
import torch
from problems import Problem, error, truth

from cmsei_fast import PairScorer
from cmsei_fast.engines import triton_fused
from cmsei_fast.ops import pair_score

triton_fused.BAND, triton_fused._MOST_TILES = 2, 8
triton_fused.TILES = dict.fromkeys(triton_fused.TILES, (triton_fused.Tile(32, 64, 4, 1),))
triton_fused.form = lambda *_: {"TURNED": False, "HALVES": True}
launched = 0
launch = triton_fused._launch


def counted(tile, programs, scratch, out, images, captions, *rest):
    global launched
    tiles = (len(images[2].bounds) - 1) * (len(captions[2].bounds) - 1)
    assert tiles <= triton_fused._MOST_TILES
    launched += tiles
    launch(tile, programs, scratch, out, images, captions, *rest)


triton_fused._launch = counted
problem = Problem(PairScorer.cmsei(), (36, 5, 1, 37, 17, 36, 60, 7, 2), (13, 3, 1, 18, 12, 9, 2, 31, 20), 40)
v, w, *both = problem.tensors()
actual = pair_score(v, w, *both, scorer=problem.scorer, engine="triton")
assert error(actual, truth(problem).scores) <= 1e-12
print("ok", launched)
"""


def compiled(arch: int, scorer: PairScorer, tile: Tile, precision: str, tmp: Path) -> Compiled:
    """What the compiler makes of the launch for 36 regions and up to 16 words."""
    from cmsei_fast.kernels.pair_fused import fused_scores

    short, size = {"bfloat16": ("*bf16", 2), "float32": ("*fp32", 4)}[precision]
    options = fused_options(scorer.config()) | {"TM": tile.words, "TN": tile.regions, "BK": depth_block(size, arch)}
    options |= {"EVEN": True, "BAND": 8, "C": launch("pair_scores", 16, 64).captions, "BL": 16, "BR": 64}
    options |= {
        "FEATURE_PRECISION": product_precision(precision, exact=True),
        "PRECISION": product_precision(precision),
    }
    options |= form(tile, arch)
    types = {"words": short, "regions": short, "word_stride": "i32", "region_stride": "i32"}
    places = ("caption_bounds", "image_bounds", "word_rows", "region_rows", "word_starts", "region_starts")
    types |= dict.fromkeys(places, "*i64")
    return build(fused_scores, arch, tile.warps, types, options, tmp, stages=STAGES)


def main_loop(code: str) -> str:
    """The first loop without another inside that multiplies on the tensor cores."""
    lines = code.splitlines()
    labels = {m[1]: i for i, x in enumerate(lines) if (m := re.match(r"\s*(\.L_x_\d+):", x))}
    branches = ((labels.get(m[1], i), i) for i, x in enumerate(lines) if (m := re.search(r"BRA.*`\((\.L_x_\d+)\)", x)))
    loops = [(a, b) for a, b in branches if a < b]
    inner = [(a, b) for a, b in loops if not any((c, d) != (a, b) and a <= c and d <= b for c, d in loops)]
    found = ["\n".join(lines[a:b]) for a, b in sorted(inner)]
    return next(x for x in found if re.search(r"\b(HGMMA|HMMA|UTC\w*MMA)", x))


WIDE, NARROW = TILES["bfloat16"]
COMPILED = [(arch, SCAN, tile, "bfloat16") for arch in SHARED for tile in (WIDE, NARROW)]
COMPILED += [(arch, CMSEI, tile, "bfloat16") for arch in SHARED for tile in (WIDE, NARROW)]
COMPILED += [(80, x, tile, "float32") for x in (SCAN, CMSEI) for tile in TILES["float32"]]


@compiles
@pytest.mark.parametrize(("arch", "scorer", "tile", "precision"), COMPILED)
def test_compiled(arch: int, scorer: PairScorer, tile: Tile, precision: str, tmp_path: Path) -> None:
    found = compiled(arch, scorer, tile, precision, tmp_path)
    loop = main_loop(found.code)
    assert found.spills <= (20 if OLDER and arch == 80 else 0)
    assert found.shared * tile.programs <= SHARED[arch]
    assert found.registers * 32 * tile.warps * tile.programs <= 65536
    assert {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA"}[arch] in loop
    if arch == 90:
        assert f"wgmma.mma_async.sync.aligned.m64n{tile.regions}k16.f32.bf16.bf16" in found.ptx


@pytest.mark.parametrize("precision", TILES)
def test_every_item_that_the_engine_takes_fits_a_tile(precision: str) -> None:
    sizes = offsets((MAX_ROWS, 1))
    assert all(too_large(tile, sizes, sizes) is None for tile in TILES[precision])


def test_tiles_hold_every_row_once() -> None:
    generator = np.random.default_rng(0)
    bounds = offsets(tuple(generator.integers(1, 65, 50).tolist()))
    rows = torch.zeros(int(bounds[-1]), 1)
    side = type("Side", (), {"layout": layout(bounds, len(rows), rows.device), "rows": rows})
    seen: list[int] = []
    for run, tiling in triton_fused._tilings(bounds, side, 128):
        assert tiling.bounds[0] == run.first
        assert tiling.bounds[-1] == run.first + run.size
        for tile, (a, b) in enumerate(zip(tiling.bounds[:-1].tolist(), tiling.bounds[1:].tolist(), strict=True)):
            assert a < b
            for item in side.layout.host_order[a:b].tolist():
                length, start = int(bounds[item + 1] - bounds[item]), int(tiling.starts[item])
                own = tiling.rows[tile, start : start + length].tolist()
                assert own == list(range(int(bounds[item]), int(bounds[item + 1])))
                seen += own
    assert sorted(seen) == list(range(len(rows)))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which design each call took; nothing is computed."""
    taken: list[str] = []

    def chunked(*inputs: Any) -> torch.Tensor:
        taken.append("chunked")
        return torch.zeros(1)

    def fused(*inputs: Any) -> torch.Tensor:
        taken.append(inputs[-1].name)
        return torch.zeros(1)

    monkeypatch.setattr(triton_pair, "pair_score", chunked)
    monkeypatch.setattr(triton_fused, "pair_score", fused)
    return taken


def call(lengths: tuple[int, ...] = (3, 2)) -> None:
    rows = torch.zeros(sum(lengths), 4)
    both = offsets(lengths)
    triton_design.pair_score(rows, rows, both, both, torch.tensor(SCAN.scalars()), SCAN.config(), "bfloat16")


def test_the_design_is_fixed_where_nothing_is_measured(computed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(triton_design.VARIABLE, raising=False)
    call()
    for value in ("fused", "chunked"):
        monkeypatch.setenv(triton_design.VARIABLE, value)
        call()
        assert triton_design.describe() == f"pair_score by the design '{value}' (CMSEI_TRITON_DESIGN)"
    assert computed == ["chunked", "fused 128x256", "chunked"]


def test_an_item_larger_than_a_tile_is_left_to_the_other_design_with_a_reason(
    computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(triton_design.VARIABLE, "fused")
    with pytest.warns(UserWarning, match="one caption has 200 rows, a tile 128"):
        call((3, 200))
    with pytest.warns(UserWarning, match=r"^CMSEI_TRITON_DESIGN=fused: one image has 300 rows, a tile 256; the design"):
        call((3, 300))
    assert computed == ["chunked", "chunked"]


@pytest.mark.skipif(too_old() is not None, reason=str(too_old()))
def test_a_design_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(triton_design.VARIABLE, "best")
    wrong = "CMSEI_TRITON_DESIGN: expected one of chunked, fused, or unset for the faster, got 'best'"
    assert engines.unavailable("triton") == wrong


def test_what_was_measured_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from cmsei_fast.engines.tuning import Choices

    monkeypatch.delenv(triton_design.VARIABLE, raising=False)
    monkeypatch.setenv("CMSEI_CACHE", str(tmp_path))
    kept = Choices("g", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(triton_design, "choices", lambda _: kept)
    assert "from 1048576 pairs on" in triton_design.describe()
    rows, both = torch.zeros(5, 4), offsets((3, 2))
    candidates = [None, *TILES["bfloat16"]]
    key = triton_design._key(candidates, (rows, rows, both, both, None, SCAN.config(), "bfloat16"))
    assert kept.best(key, candidates, lambda tile: 1.0 if tile is not None else 2.0) == 1
    assert triton_design.describe() == "pair_score by the design measured fastest: so far fused 128x256"


class OnGpu(torch.Tensor):
    """Says that it is on a GPU."""

    is_cuda = property(lambda self: True)


def test_a_large_problem_is_measured_once_on_its_first_items(
    computed: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from cmsei_fast.engines.tuning import Choices

    monkeypatch.delenv(triton_design.VARIABLE, raising=False)
    monkeypatch.setenv("CMSEI_CACHE", str(tmp_path))
    monkeypatch.setattr(triton_design, "choices", lambda _: Choices("g", "1"))
    monkeypatch.setattr(triton_design, "MEASURED_PAIRS", 12)
    monkeypatch.setattr(triton_design, "_PART", (2, 3))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    capturing = [False]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
    sizes: list[tuple[int, ...]] = []
    took = {"chunked": 3.0, "fused 128x256": 2.0, "fused 128x128": 1.0}

    def chunked(regions: torch.Tensor, words: torch.Tensor, *rest: Any) -> torch.Tensor:
        sizes.append((len(regions), len(words), len(rest[0]) - 1, len(rest[1]) - 1))
        computed.append("chunked")
        return torch.zeros(1)

    def seconds(run: Any) -> float:
        run()
        return took[computed[-1]]

    monkeypatch.setattr(triton_pair, "pair_score", chunked)
    monkeypatch.setattr(triton_design, "seconds", seconds)

    def score(images: tuple[int, ...], captions: tuple[int, ...]) -> None:
        v, w = (torch.zeros(sum(x), 4).as_subclass(OnGpu) for x in (images, captions))
        scalars = torch.tensor(SCAN.scalars())
        triton_design.pair_score(v, w, offsets(images), offsets(captions), scalars, SCAN.config(), "bfloat16")

    score((3, 2, 4), (5, 1, 2, 2))
    assert computed == ["chunked", "fused 128x256", "fused 128x128", "fused 128x128"]
    assert sizes == [(5, 8, 2, 3)]
    score((3, 3, 4), (5, 1, 2, 4))  # alike
    score((3, 2, 4), (5, 1, 2))  # too few pairs
    capturing[0] = True
    score((3, 2, 4), (5, 1, 2, 2))  # nothing can be measured now, but this has been
    score((3, 2, 60), (5, 1, 2, 2))
    assert computed[4:] == ["fused 128x128", "chunked", "fused 128x128", "chunked"]
