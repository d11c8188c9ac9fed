"""Screening: rounded features first and exact scores where these do not decide, with the results of exact scores."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
from problems import offsets

from cmsei_fast import Attention, PairScorer, engines, evaluate, retrieve, tiling
from cmsei_fast.engines import reference
from cmsei_fast.retrieval import best, evaluation, screen, screen_timing
from cmsei_fast.retrieval.rank_count import RankCount
from cmsei_fast.retrieval.screen import Screen
from cmsei_fast.retrieval.screen_timing import ScreenTiming
from cmsei_fast.scoring import prepare
from cmsei_fast.tiling import TileStream

native = engines._module("native")
pytestmark = pytest.mark.skipif(engines.unavailable("native") is not None, reason="screens need the native engine")

HARD = {"norm": "none", "attend": "hard", "relevance": "dot"}
SCORERS = {
    "mean": PairScorer.maxsim("mean"),
    "sum": PairScorer.maxsim(),
    "max": PairScorer.maxsim("max"),
    "chan": PairScorer.chan(),
    "soft": PairScorer(Attention(aggregate="lse", lse_temperature=0.01, **HARD)),
    "image": PairScorer(i2t=Attention(0.3, aggregate="sum", **HARD)),
    "both": PairScorer(Attention(0.5, aggregate="lse", lse_temperature=3.0, **HARD), Attention(2.0, **HARD)),
}


def sizes(rng, n_image, n_caption):
    return rng.integers(1, 6, n_image), rng.integers(1, 8, n_caption)


def features(kind, n_image=23, n_caption=50, width=19, seed=0):
    """Packed unit rows: at random, with items that repeat, or with scores that differ by less than the rounding."""
    rng = np.random.default_rng(seed)
    n, m = sizes(rng, n_image, n_caption)
    images, captions = (rng.standard_normal((k.sum(), width)) for k in (n, m))
    if kind == "tied":
        n, m = np.full(n_image, 2), np.full(n_caption, 3)
        images, captions = (
            rng.standard_normal((3, k[0], width))[np.arange(len(k)) % 3].reshape(-1, width) for k in (n, m)
        )
    if kind == "close":
        images = rng.standard_normal(width) + 1e-4 * images
    images, captions = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, captions))
    return images.astype(np.float32), captions.astype(np.float32), m, n


def always(self, n, work, prepare):
    """Every tile is screened, whatever the clock says."""
    yield slice(0, n), True


def by_chance(self, n, work, prepare):
    """A tile in three pieces, of which any may be screened."""
    rng = np.random.default_rng(n)
    cuts = [0, *np.sort(rng.integers(0, n + 1, 2)), n]
    for first, last in itertools.pairwise(cuts):
        if rng.random() < 0.3:
            prepare()
        if first < last:
            yield slice(first, last), bool(rng.random() < 0.5)


@pytest.fixture(params=["small always", "small by_chance", "large always"])
def blocks(request, monkeypatch):
    """Blocks of few items and tiles of few pairs, or all in one; what is screened."""
    size, which = request.param.split()
    monkeypatch.setattr(ScreenTiming, "pieces", {"always": always, "by_chance": by_chance}[which])
    if size == "small":
        monkeypatch.setattr(tiling, "IMAGE_BLOCK_BYTES", 30 * 19 * 4)
        monkeypatch.setattr(tiling, "CAPTION_BLOCK_BYTES", 70 * 19 * 4)
        monkeypatch.setattr(tiling, "TILE_WORK", dict.fromkeys(tiling.TILE_WORK, 400_000))


@pytest.mark.parametrize("isa", native.isas() if engines.unavailable("native") is None else [])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_listed_pairs_have_the_bits_of_the_whole(isa, dtype):
    generator = torch.Generator().manual_seed(1)
    for width, scorer in itertools.product((1, 20, 300, 1025), [*SCORERS.values(), PairScorer.cmsei()]):
        v, w = offsets((1, 2, 36, 5, 7, 14)), offsets((1, 13, 40, 3, 1, 6, 7, 16, 17))
        regions, words = (torch.randn(int(x[-1]), width, generator=generator).to(dtype) for x in (v, w))
        precision = str(dtype).removeprefix("torch.")
        scalars = torch.tensor(scorer.scalars())
        call = regions, words, v, w, scalars, scorer.config(), precision
        with native.use_isa(isa):
            whole = native.pair_score(*call)
            for share in (0.0, 0.2, 0.7, 1.0):
                wanted = torch.rand(whole.shape, generator=generator) < share
                assert torch.equal(native.pair_score_listed(*call, wanted), whole[wanted])


@pytest.mark.parametrize("query", ["caption", "image"])
@pytest.mark.parametrize("kind", ["random", "tied", "close"])
@pytest.mark.parametrize("scorer", SCORERS.values(), ids=SCORERS)
def test_retrieve_is_exact(scorer, kind, query, blocks):
    problem = features(kind)
    for k, precision in ((1, None), (4, "float64"), (100, None)):
        options = {"k": k, "query": query, "scorer": scorer, "precision": precision}
        expected, got = retrieve(*problem, **options), retrieve(*problem, **options, screen="bfloat16")
        np.testing.assert_array_equal(got.indices, expected.indices)
        np.testing.assert_array_equal(got.scores, expected.scores)
        assert got.scores.dtype == expected.scores.dtype


@pytest.mark.parametrize("kind", ["random", "tied", "close"])
@pytest.mark.parametrize("scorer", SCORERS.values(), ids=SCORERS)
def test_evaluate_is_exact(scorer, kind, blocks):
    rng = np.random.default_rng(3)
    problem = features(kind, 24)
    owners = np.sort(np.arange(50) % 24), rng.choice(24, 50), np.concatenate([[0, 6, 12, 18], rng.choice(9, 46)])
    for owner, folds in zip(owners, (1, 1, 4), strict=True):
        options = {"scorer": scorer, "caption_to_image": owner, "folds": folds}
        expected, got = evaluate(*problem, **options), evaluate(*problem, **options, screen="bfloat16")
        assert got.to_dict() == expected.to_dict()
        np.testing.assert_array_equal(got.i2t.ranks, expected.i2t.ranks)
        np.testing.assert_array_equal(got.t2i.ranks, expected.t2i.ranks)


def tile_of(problem, scorer, **options):
    """The one tile of a problem, screened, and its exact scores."""
    stream = TileStream(prepare(*problem, scorer, "native", options.get("precision")))
    screen = Screen(stream)
    (((_, _, tile),), ((_, _, scores),)) = screen.tiles(np.ones((1, 1), bool)), stream.tiles()
    return screen, tile, scores


def truth(problem, scorer):
    """Scores by the reference, in float64."""
    images, captions, m, n = problem
    rows = (torch.from_numpy(np.asarray(x, np.float64)) for x in (images, captions))
    scalars = torch.tensor(scorer.scalars(), dtype=torch.float64)
    return reference.pair_score(*rows, offsets(tuple(n)), offsets(tuple(m)), scalars, scorer.config(), "float64")


KINDS = ("normal", "heavy", "worst", "rounded")


def worst(rows):
    """Rows whose numbers are each nearly half a unit of bfloat16 above it, so that roundings add up."""
    low = torch.from_numpy(rows).bfloat16()
    above = (low.view(torch.int16) + 1).view(torch.bfloat16)
    return (low.double() + 0.499 * (above.double() - low.double())).float().numpy()


@pytest.mark.parametrize("isa", native.isas() if engines.unavailable("native") is None else [])
@pytest.mark.parametrize("scorer", SCORERS.values(), ids=SCORERS)
def test_the_margin_holds(scorer, isa):
    rng = np.random.default_rng(7)
    tightest = 0.0
    for width, scale, kind in itertools.product((1, 3, 64, 700), (1e-22, 1e-3, 1.0, 1e5), KINDS):
        n, m = sizes(rng, 5, 6)
        sides = [rng.standard_normal((k.sum(), width)) for k in (n, m)]
        if kind == "heavy":
            sides = [x**7 for x in sides]
        sides = [(x * scale).astype(np.float32) for x in sides]
        if kind == "worst":
            sides = [worst(np.abs(x)) for x in sides]
        if kind == "rounded":  # what is left is the accumulation's
            sides = [torch.from_numpy(x).bfloat16().float().numpy() for x in sides]
        problem = *sides, m, n
        with native.use_isa(isa):
            _, tile, scores = tile_of(problem, scorer)
            near, margin = tile.approximate()
        for exact in (scores.double(), truth(problem, scorer)):
            off = (near.double() - exact).abs()
            assert torch.isfinite(margin).all()
            assert (off <= margin.double()).all(), (off / margin).max()
        if kind == "worst":
            tightest = max(tightest, float((off / margin).max()))
    assert tightest > 0.2  # a bound that is far too wide would save nothing


def test_only_undecided_pairs_are_scored_again(monkeypatch):
    monkeypatch.setattr(ScreenTiming, "pieces", always)
    monkeypatch.setattr(screen, "_GATHER", 1)  # of items as small as these, single pairs are dear
    rng = np.random.default_rng(0)
    centre = np.eye(12)[np.repeat(np.arange(12), 4)]  # an image and its captions point one way
    images = np.repeat(np.eye(12), 3, 0) + 0.05 * rng.standard_normal((36, 12))
    captions = np.repeat(centre, 5, 0) + 0.05 * rng.standard_normal((240, 12))
    problem = images.astype(np.float32), captions.astype(np.float32), [5] * 48, [3] * 12
    scorer, owner = PairScorer.maxsim("mean"), np.repeat(np.arange(12), 4)
    calls = []
    for name in ("pair_score", "pair_score_listed"):
        real = getattr(native, name)

        def counted(*arguments, real=real, name=name):
            out = real(*arguments)
            calls.append((name, arguments[6], out.numel()))
            return out

        monkeypatch.setattr(native, name, counted)
    got = evaluate(*problem, scorer=scorer, caption_to_image=owner, screen="bfloat16")
    assert got.t2i.r1 == got.i2t.r1 == 100
    rough, exact = (sum(n for _, p, n in calls if p == precision) for precision in ("bfloat16", "float32"))
    assert rough == 12 * 48
    assert {(name, p) for name, p, _ in calls} == {("pair_score", "bfloat16"), ("pair_score_listed", "float32")}
    # The true pairs once for their scores; then those, and what is as near to them: the images' other captions.
    assert 96 <= exact <= 2 * 48 + 12
    calls.clear()
    retrieve(*problem, scorer=scorer, k=1, screen="bfloat16")
    assert sum(n for _, p, n in calls if p == "float32") == 48
    calls.clear()
    evaluate(*problem, scorer=scorer, caption_to_image=owner)
    assert calls == [("pair_score", "float32", 12 * 48)]


@pytest.mark.parametrize("query", ["image", "caption"])
def test_where_it_does_not_pay_the_tiles_are_scored_whole(monkeypatch, query):
    """By a clock that charges screened pairs for more than they cost: a slice is screened, and nothing again."""
    problem = features("random", 48, 480)
    screens = []

    class Noted(Screen):
        def __init__(self, stream):
            super().__init__(stream)
            screens.append(self)

    for module in (best, evaluation):
        monkeypatch.setattr(module, "Screen", Noted)
    monkeypatch.setattr(screen_timing, "clock", lambda: float(5 * screens[0].screened + screens[0].rescored))
    options = {"scorer": PairScorer.maxsim("mean")}
    expected, got = (retrieve(*problem, query=query, **options, screen=x) for x in (None, "bfloat16"))
    np.testing.assert_array_equal(got.indices, expected.indices)
    np.testing.assert_array_equal(got.scores, expected.scores)
    assert screens[0].screened == 48 * 480 // 24
    assert screens[0].rescored <= 48 * 480
    screens.clear()
    options["caption_to_image"] = np.arange(480) % 48
    expected, got = (evaluate(*problem, **options, screen=x) for x in (None, "bfloat16"))
    assert got.to_dict() == expected.to_dict()
    assert screens[0].screened == 48 * 480 // 24


def test_tiles_of_true_pairs_that_were_scored_whole_are_kept(monkeypatch):
    """Where every pair is true, the tile is scored once."""
    problem = features("random", 1, 50)
    calls = []
    real = native.pair_score
    monkeypatch.setattr(native, "pair_score", lambda *x: calls.append(x[6]) or real(*x))
    got = evaluate(*problem, scorer=PairScorer.maxsim(), captions_per_image=50, screen="bfloat16")
    assert calls == ["float32"]
    assert got.i2t.r1 == got.t2i.r1 == 100


def test_counters_and_the_mask_are_what_was_scored_again():
    problem = features("random")
    screen, tile, scores = tile_of(problem, PairScorer.maxsim("mean"))
    near, margin = tile.approximate()
    marked = torch.zeros(near.shape, dtype=torch.bool)
    marked[3, 7] = marked[20, 41] = True
    got, mask = tile.resolve(lambda *_: marked)
    assert torch.equal(mask, marked)
    assert torch.equal(got, torch.where(marked, scores, near))
    assert not torch.equal(got, scores)
    assert (screen.screened, screen.rescored) == (2 * near.numel(), 2)
    assert tile.exact(torch.ones_like(marked)).view(near.shape).equal(scores)
    assert screen.rescored == 2 + near.numel()
    assert torch.isfinite(margin).all()


def test_undecided_pairs_are_those_near_a_true_pair_of_their_fold():
    owner = np.array([0, 1, 2, 3])
    ranks = RankCount(owner, 4, 2, torch.float32, torch.device("cpu"))
    all_, tile = slice(0, 4), torch.eye(4) + 0.25
    ranks.add_true_pairs(all_, all_, tile)
    ranks.finish_true_pairs()
    near = tile.clone()
    near[0, 1] = 1.2  # near the true pairs of both; image 3 and caption 2 are far from theirs; folds are {0, 1}, {2, 3}
    near[0, 2] = 1.2
    expected = torch.eye(4, dtype=torch.bool)
    expected[0, 1] = True
    assert torch.equal(ranks.undecided(all_, all_, near, torch.full((4, 4), 0.1)), expected)
    same_fold = torch.tensor([[i // 2 == j // 2 for j in range(4)] for i in range(4)])
    for unknown in (torch.nan, torch.inf):
        assert torch.equal(ranks.undecided(all_, all_, near, torch.full((4, 4), unknown)), same_fold)


@pytest.mark.parametrize("large", [1e17, 3.4e38])
def test_features_near_the_end_of_the_range(large):
    images, captions, m, n = features("random")
    images[:4] = 0
    images[5, 2] = large
    options = {"scorer": PairScorer.maxsim("mean"), "k": 3}
    captions[:, 2] = np.abs(captions[:, 2]) * 1e-3  # no overflow
    expected, got = (
        retrieve(images, captions, m, n, **options),
        retrieve(images, captions, m, n, **options, screen="bfloat16"),
    )
    np.testing.assert_array_equal(got.indices, expected.indices)
    np.testing.assert_array_equal(got.scores, expected.scores)
    captions[9, 2] = large
    if large > 1e18:
        with pytest.raises(ValueError, match="got an overflow for image"):
            retrieve(images, captions, m, n, **options, screen="bfloat16")


def test_blocks_of_files_and_progress(tmp_path, blocks, capsys):
    images, captions, m, n = features("random")
    stored = []
    for name, array in (("images", images), ("captions", captions)):
        array.tofile(tmp_path / name)
        stored.append(np.memmap(tmp_path / name, dtype=array.dtype, shape=array.shape, mode="r"))
    options = {"scorer": PairScorer.maxsim("mean"), "caption_to_image": np.arange(50) % 23}
    expected = evaluate(images, captions, m, n, **options)
    got = evaluate(*stored, m, n, **options, screen="bfloat16", progress=True)
    assert got.to_dict() == expected.to_dict()
    assert "100 % of 1,150 pairs" in capsys.readouterr().err.replace("1150", "1,150")


@pytest.mark.parametrize("query", ["caption", "image"])
@pytest.mark.parametrize(("images", "captions"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_retrieve(images, captions, query):
    sides = np.zeros((images, 2, 4), np.float32), np.zeros((captions, 2, 4), np.float32)
    got = retrieve(*sides, query=query, scorer=PairScorer.maxsim(), screen="bfloat16")
    asks, items = (captions, images) if query == "caption" else (images, captions)
    assert got.indices.shape == (asks, min(items, 10))


LARGEST = (
    "screen: expected a scorer made of largest inner products (attend='hard', relevance='dot', steps=1, a plain "
    "aggregate, no cross-level terms), as PairScorer.maxsim() is, got "
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"screen": "int8"}, "screen: expected None or \"bfloat16\", got 'int8'"),
        ({"scorer": PairScorer.scan_t2i()}, LARGEST + "t2i attend='softmax'"),
        ({"scorer": None}, LARGEST + "object_sentence=1"),
        ({"scorer": PairScorer(i2t=Attention(attend="hard"))}, LARGEST + "i2t relevance='cosine'"),
        ({"scorer": PairScorer(Attention(aggregate="guided", **HARD))}, LARGEST + "t2i aggregate='guided'"),
        ({"scorer": PairScorer(Attention(steps=2, **HARD))}, LARGEST + "t2i steps=2"),
        ({"precision": "bfloat16"}, "screen: expected precision 'float32' or 'float64' to save, got 'bfloat16'"),
        (
            {"engine": "eager"},
            "screen: expected an engine that gives a pair the same bits in any tile, which is 'native', got 'eager'",
        ),
    ],
)
@pytest.mark.parametrize("function", [retrieve, evaluate])
def test_bad_input(function, options, message):
    more = {"caption_to_image": np.arange(50) % 23} if function is evaluate else {}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        function(*features("random"), **{"scorer": PairScorer.maxsim(), "screen": "bfloat16", **more, **options})
