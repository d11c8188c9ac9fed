"""Variants whose instructions the processor lacks: their 512-bit sources compiled for those that it has.

Same code, same register tiles, lane counts and tails; only the instructions differ (and the bfloat16 pair product, the
product of whole numbers and the tile registers, which are spelled out). Its baseline has the register tiles of NEON,
which has as many registers as AVX-512. What this cannot show is their speed.
"""

from __future__ import annotations

import importlib.util
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import beside
import pytest
import torch
from problems import (
    Problem,
    attention_options,
    computed,
    error,
    every_direction,
    magnitude,
    name,
    truth,
    whole_scores,
)
from torch.nn.functional import normalize

from cmsei_fast import engines, score_matrix
from cmsei_fast.compat.similarity import EncoderSimilarity
from cmsei_fast.engines import native
from cmsei_fast.engines.cuda_tiles import MOST_WHOLE
from cmsei_fast.ops import pair_score, relation_attention
from cmsei_fast.scorer import PairScorer

ROOT = Path(__file__).resolve().parents[1]
WIDE = ("avx512", "avx512bf16", "avx512amx")

pytestmark = pytest.mark.skipif(
    engines.unavailable("native") is not None or platform.machine().lower() not in ("x86_64", "amd64"),
    reason="needs the native module on x86-64",
)


def build() -> Path:
    """Builds the native module with NEON's tiles and the 512-bit variants, made of instructions that there are here."""
    # The widest: of vectors that fit no register compilers make several times the code, and take as much longer.
    own = [name for name in ("avx512", "avx2") if name in native.isas()][:1]
    done = beside.run([sys.executable, "tests/emulated_build.py", *own], 1500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return ROOT / done.stdout.splitlines()[-1]


BUILD = beside.Job(build)


@pytest.fixture(scope="module")
def emulated() -> object:
    spec = importlib.util.spec_from_file_location("emulated._native", BUILD.result())
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def in_use(emulated: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_module", lambda: emulated)
    monkeypatch.setitem(sys.modules, "cmsei_fast._native", emulated)


@pytest.fixture(params=("baseline", *WIDE))
def variant(request: pytest.FixtureRequest, in_use: None) -> Iterator[str]:
    with native.use_isa(request.param):
        yield request.param


@pytest.fixture(params=WIDE)
def wide(request: pytest.FixtureRequest, in_use: None) -> Iterator[str]:
    with native.use_isa(request.param):
        yield request.param


@pytest.mark.beside(work=BUILD.result)
def test_it_has_every_variant(emulated) -> None:
    assert emulated.isas() == ["baseline", *WIDE]


@pytest.mark.parametrize("problem", every_direction()[::4] + whole_scores(), ids=name)
def test_scores_and_gradients(problem: Problem, variant: str) -> None:
    expected = truth(problem)
    for dtype, limit in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        actual = computed(problem, "native", dtype)
        assert error(actual.scores, expected.scores) <= limit * magnitude(expected.scores)
        for key, value in expected.gradients().items():
            assert error(actual.gradients()[key], value) <= 100 * limit * magnitude(value)


@pytest.mark.parametrize("width", [1, 2, 31, 300])
def test_bfloat16_pairs(width: int, wide: str) -> None:
    """Odd widths leave half a pair; deep ones are cut into blocks."""
    problem = Problem(PairScorer.cmsei(), (36, 5, 14, 29), (3, 17, 40, 1), width)
    v, w, v_offsets, w_offsets = problem.tensors()
    v, w = (x if width == 1 else normalize(x) for x in (v, w))
    v, w = v.bfloat16(), w.bfloat16()
    given = (v_offsets, w_offsets)
    actual = pair_score(v, w, *given, scorer=problem.scorer, engine="native")
    expected = pair_score(v.double(), w.double(), *given, scorer=problem.scorer, engine="reference")
    assert error(actual.double(), expected) <= 1e-5


@pytest.mark.parametrize("width", [1, 4, 31, 1100])
def test_whole_numbers_of_8_bits(width: int, wide: str) -> None:
    """Odd widths leave part of four numbers, deep ones are cut into passes."""
    assert native._module().multiplies_int8(wide)
    problem = Problem(PairScorer.cmsei(), (36, 5, 14, 29), (3, 17, 40, 1), width)
    v, w, v_offsets, w_offsets = problem.tensors()
    found, expected = (
        pair_score(x, y, v_offsets, w_offsets, scorer=problem.scorer, engine=engine, precision="int8").double()
        for x, y, engine in ((v.float(), w.float(), "native"), (v, w, "reference"))
    )
    assert error(found, expected) <= 1e-5 * magnitude(expected)


def whole_numbers(problem: Problem, isa: str) -> torch.Tensor:
    """Scores in int8; what lies beyond a row must not count."""
    v, w, *offsets = problem.tensors()
    v, w = (torch.cat([x, torch.full_like(x[:, :3], 1e9)], 1).float()[:, : problem.width] for x in (v, w))
    with native.use_isa(isa):
        return pair_score(v, w, *offsets, scorer=problem.scorer, engine="native", precision="int8")


def same_bits(problem: Problem) -> bool:
    """Whether tile registers and instructions on vectors give the same scores in int8, none of them a NaN."""
    return torch.equal(whole_numbers(problem, "avx512amx"), whole_numbers(problem, "avx512bf16"))


@pytest.mark.parametrize("width", [1, 31, 63, 64, 65, 129, 1024, 1025, 1100, 2600])
@pytest.mark.usefixtures("in_use")
def test_tile_registers_give_the_bits_of_vectors_in_int8(width: int) -> None:
    """Part of a row of 64 bytes, whole rows, several passes; images and captions that end anywhere in a tile."""
    for scorer in (PairScorer.cmsei(), PairScorer.scan_i2t(), PairScorer.maxsim(), PairScorer.naaf(0.15)):
        assert same_bits(Problem(scorer, (36, 5, 14, 29, 33, 1), (3, 17, 40, 1, 16), width))
    for n, m in ((1, 1), (16, 16), (17, 32), (32, 33), (48, 31)):
        assert same_bits(Problem(PairScorer.cmsei(), (n,), (m,), width))


@pytest.mark.usefixtures("in_use")
def test_tile_registers_give_the_bits_of_vectors_for_every_option() -> None:
    for problem in [*every_direction()[::3], *whole_scores(), *attention_options()]:
        assert same_bits(problem), problem


@pytest.mark.usefixtures("in_use")
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_of_the_largest_whole_numbers_do_not_overflow(sign: int) -> None:
    """One more than 32 bits hold at a time, every product 127 · 127."""
    depth = MOST_WHOLE + 1
    v, w = torch.full((1, depth), 127.0), torch.full((1, depth), sign * 127.0)
    one = torch.tensor([0, 1])
    for isa in WIDE:
        with native.use_isa(isa):
            found = pair_score(v, w, one, one, scorer=PairScorer.maxsim(), engine="native", precision="int8")
        assert abs(found.item() / (sign * 127.0**2 * depth) - 1) <= 1e-6


def test_whole_numbers_of_listed_pairs_and_of_a_matrix(wide: str) -> None:
    """The listed pairs have the bits of all of them."""
    problem = Problem(PairScorer.cmsei(), (20,) * 9, (7,) * 11, 70)
    v, w, v_offsets, w_offsets = problem.tensors()
    v, w = v.float(), w.float()
    scorer = problem.scorer
    scores = pair_score(v, w, v_offsets, w_offsets, scorer=scorer, engine="native", precision="int8")
    wanted = torch.rand(scores.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    scalars = torch.tensor(scorer.scalars(), dtype=torch.float64)
    listed = native.pair_score_listed(v, w, v_offsets, w_offsets, scalars, scorer.config(), "int8", wanted)
    assert torch.equal(listed, scores[wanted])
    sides = v.view(9, 20, 70), w.view(11, 7, 70)
    found, expected = (
        score_matrix(*sides, scorer=scorer, engine=engine, precision="int8").double()
        for engine in ("native", "reference")
    )
    assert error(found, expected) <= 1e-5 * magnitude(expected)


@pytest.mark.parametrize(("nodes", "width"), [(1, 1), (5, 3), (36, 16), (37, 33)])
def test_relation_attention(nodes: int, width: int, variant: str) -> None:
    generator = torch.Generator().manual_seed(nodes)
    shape = (2, 3, nodes, width)
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    labels = torch.randint(0, 4, (2, nodes, nodes), generator=generator)
    tensors += [torch.randn(4, 3, generator=generator, dtype=torch.float64)]
    tensors += [torch.randn(4, 3, width, generator=generator, dtype=torch.float64)]
    tensors += [torch.rand(2, nodes, nodes, generator=generator, dtype=torch.float64) * 0.9 + 0.1]
    found = []
    for engine, dtype in (("reference", torch.float64), ("native", torch.float64), ("native", torch.float32)):
        leaves = [x.to(dtype, copy=True).requires_grad_() for x in tensors]
        q, k, v, bias, value, confidence = leaves
        out = relation_attention(q, k, v, labels, bias, value, confidence, engine=engine)
        grads = torch.autograd.grad(out.square().sum(), leaves, allow_unused=True)
        found.append([out.detach().double(), *(torch.zeros(1) if g is None else g.double() for g in grads)])
    for limit, actual in ((1e-11, found[1]), (1e-4, found[2])):
        for a, e in zip(actual, found[0], strict=True):
            assert error(a, e) <= limit * magnitude(e)


@pytest.mark.parametrize("module", ["SAF", "SGR"])
@torch.no_grad()
def test_sgraf(module: str, variant: str) -> None:
    torch.manual_seed(0)
    images, words = (normalize(torch.randn(n, 40, dtype=torch.float64) + 0.3, dim=-1) for n in (7 * 19, 67))
    lengths = torch.tensor([1, 16, 30, 17, 3])
    model = EncoderSimilarity(40, 33, module, num_region=19, engine="eager").double().eval()
    expected = model.similarities(images.view(7, 19, 40), words, lengths)
    model.engine = "native"
    for dtype, limit in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        found = model.to(dtype).similarities(images.to(dtype).view(7, 19, 40), words.to(dtype), lengths)
        assert error(found, expected) <= limit
