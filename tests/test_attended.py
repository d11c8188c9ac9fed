"""Attended vectors in tiles and a head's scores of them, against one pair at a time written out in float64."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.flop_counter import FlopCounterMode

from cmsei_fast import AttendedTile, Attention, Encoded, attended_features, attended_scores
from cmsei_fast.engines import reference
from cmsei_fast.engines.terms import read_terms
from cmsei_fast.ops import attended
from cmsei_fast.scorer import NORMS, PairScorer

REGIONS, WORDS, WIDTH = (5, 3, 5, 1, 5, 36), (1, 4, 6, 3, 4), 8


class Head(nn.Module):
    """Similarity vectors W (u − q)² + b of unequal weight, as SGRAF's, and something that is not linear in them."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.project = nn.Linear(WIDTH, 4, dtype=torch.float64).to(dtype)

    def vectors(self, u: Tensor, q: Tensor) -> Tensor:
        return self.project((u - q) ** 2).tanh().sum(-1).mean(-1)

    def forward(self, tile: AttendedTile) -> Tensor:
        return self.vectors(tile.attended, tile.queries)


def problem(regions: Any = REGIONS, words: Any = WORDS, width: int = WIDTH) -> tuple[Tensor, Tensor]:
    """Packed features, float64."""
    generator = torch.Generator().manual_seed(len(regions))
    v = torch.randn(sum(regions), width, generator=generator, dtype=torch.float64)
    w = torch.randn(sum(words), width, generator=generator, dtype=torch.float64)
    return normalize(v + 0.3, dim=-1), 1.5 * normalize(w + 0.3, dim=-1)


def literal_vectors(q: Tensor, c: Tensor, attention: Attention, unit: bool) -> Tensor:
    """U (n, D) of one pair's queries (n, D) and context (m, D)."""
    scorer = PairScorer(t2i=attention)
    options = read_terms(torch.tensor(scorer.scalars(), dtype=torch.float64), scorer.config()).t2i
    assert options is not None
    u = reference.attend(q @ c.T, options) @ c
    return reference.unit(u) if unit else u


def literal(
    v: Tensor, w: Tensor, head: Head, attention: Attention, direction: str, unit: bool, regions: Any = REGIONS
) -> Tensor:
    rows = []
    for image in v.split(list(regions)):
        sides = [(s, image) if direction == "t2i" else (image, s) for s in w.split(list(WORDS))]
        rows.append(torch.stack([head.vectors(literal_vectors(q, c, attention, unit), q) for q, c in sides]))
    return torch.stack(rows)


def with_gradients(score: Callable[[Tensor, Tensor, Head], Tensor], v: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    """Scores and the gradients of regions, words and the head."""
    head = Head()
    v, w = v.clone().requires_grad_(), w.clone().requires_grad_()
    scores = score(v, w, head)
    upstream = torch.linspace(-1, 2, scores.numel(), dtype=scores.dtype).view(scores.shape)
    grads = torch.autograd.grad(scores, [v, w, *head.parameters()], upstream)
    return scores.detach(), *grads


ATTENTIONS = [Attention(norm=norm) for norm in NORMS]
ATTENTIONS += [
    Attention(attend="hard"),
    Attention(temperature=20.0, attend="focal_equal"),
    Attention(attend="focal_prob"),
]


@pytest.mark.parametrize("attention", ATTENTIONS, ids=lambda a: f"{a.attend}-{a.norm}")
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
@pytest.mark.parametrize("unit", [False, True])
def test_scores_and_gradients(attention: Attention, direction: str, unit: bool) -> None:
    v, w = problem()
    options: Any = {"attention": attention, "direction": direction, "unit": unit}
    actual = with_gradients(lambda v, w, head: attended_scores(v, w, WORDS, REGIONS, head=head, **options), v, w)
    expected = with_gradients(lambda v, w, head: literal(v, w, head, attention, direction, unit), v, w)
    for a, b in zip(actual, expected, strict=True):
        assert b.abs().max() > 0.05
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(attended_scores(v, w, WORDS, REGIONS, head=Head(), **options), actual[0])


@pytest.mark.parametrize("tile", [WIDTH, 64 * WIDTH])
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_small_tiles_give_the_same(direction: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    v, w = problem()

    def run(v: Tensor, w: Tensor, head: Any) -> Tensor:
        return attended_scores(v, w, WORDS, REGIONS, head=head, direction=direction, unit=True)

    expected = with_gradients(run, v, w)
    monkeypatch.setattr(attended, "_TILE", {"cpu": tile, "other": tile})
    monkeypatch.setattr(attended, "_QUERY_ROWS", {"cpu": 7, "other": 7})
    for a, b in zip(with_gradients(run, v, w), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_by_differences() -> None:
    v, w = problem((2, 3), (1, 2, 2), 3)
    project = torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    state = torch.randn(2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def scores(v: Tensor, w: Tensor, project: Tensor, state: Tensor) -> Tensor:
        def head(tile: AttendedTile) -> Tensor:
            assert tile.image_state is not None
            return ((tile.attended - tile.queries) ** 2 @ project).sum(-1) * tile.image_state[:, None]

        return attended_scores(v, w, [1, 2, 2], [2, 3], head=head, unit=True, image_state=state)

    leaves = [x.requires_grad_() for x in (v, w, project, state)]
    assert torch.autograd.gradcheck(scores, leaves)


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_each_pair_is_in_one_tile(direction: str) -> None:
    v, w = problem()
    images, captions = v.split(list(REGIONS)), w.split(list(WORDS))
    attention = Attention(temperature=4.0)
    seen = torch.zeros(len(REGIONS), len(WORDS), dtype=torch.int64)
    for tile in attended_features(v, w, WORDS, REGIONS, attention=attention, direction=direction):
        assert not tile.again
        assert tile.queries.shape[:2] == ((1, len(tile.captions)) if direction == "t2i" else (len(tile.images), 1))
        for a, i in enumerate(tile.images.tolist()):
            for b, j in enumerate(tile.captions.tolist()):
                seen[i, j] += 1
                q, c = (captions[j], images[i]) if direction == "t2i" else (images[i], captions[j])
                own = tile.queries.expand(*tile.attended.shape)[a, b]
                torch.testing.assert_close(own, q)
                torch.testing.assert_close(tile.attended[a, b], literal_vectors(q, c, attention, False))
    assert (seen == 1).all()


def test_layouts_give_the_same_bits() -> None:
    v, w = problem()
    images, captions = Encoded(v, torch.tensor(REGIONS)), Encoded(w, torch.tensor(WORDS))
    padded = [x.padded()[0] for x in (images, captions)]
    for x, n in zip(padded, (REGIONS, WORDS), strict=True):
        for row, length in zip(x, n, strict=True):
            row[length:] = torch.nan  # padding is never read
    head = Head()
    with torch.no_grad():
        expected = attended_scores(v, w, list(WORDS), list(REGIONS), head=head)
        assert torch.equal(attended_scores(images, captions, head=head), expected)
        assert torch.equal(attended_scores(padded[0], padded[1], torch.tensor(WORDS), REGIONS, head=head), expected)
        whole = attended_scores(padded[0][:1, :3], padded[1][2:3, :6], head=head)
        torch.testing.assert_close(whole, attended_scores(v[:3], w[5:11], [6], [3], head=head))


def test_states_come_with_their_items() -> None:
    v, w = problem()
    image, caption = torch.arange(6.0), torch.arange(10.0).view(5, 2)

    def head(tile: AttendedTile) -> Tensor:
        assert tile.image_state is not None
        assert tile.caption_state is not None
        return 100 * tile.image_state[:, None] + tile.caption_state.sum(1)

    scores = attended_scores(v, w, WORDS, REGIONS, head=head, image_state=image, caption_state=caption)
    assert torch.equal(scores, 100 * image.double()[:, None] + caption.sum(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_features_are_used_in_float32(dtype: torch.dtype) -> None:
    v, w = (x.to(dtype) for x in problem())
    scores = attended_scores(v, w, WORDS, REGIONS, head=Head(torch.float32), unit=True)
    expected = literal(v.double(), w.double(), Head(), Attention(), "t2i", True)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (first, *_) = attended_features(v, w, WORDS, REGIONS)
    assert first.attended.dtype == torch.float32


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_attention_is_not_rounded_by_autocast(direction: str, unit: bool) -> None:
    v, w = (x.float() for x in problem())

    def head(tile: AttendedTile) -> Tensor:
        return (tile.attended * tile.queries).sum((-1, -2))

    def call() -> Tensor:
        return attended_scores(v, w, WORDS, REGIONS, head=head, direction=direction, unit=unit)

    with torch.autocast("cpu", torch.bfloat16):
        found = call()
    torch.testing.assert_close(found, call(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("kind", [list, torch.tensor])
def test_transforms(recorded: bool, kind: Any) -> None:
    v, w = problem()
    head = Head()

    def call(v: Tensor) -> Tensor:
        return attended_scores(v, w, kind(WORDS), REGIONS, head=head, unit=True).sum()

    (expected,) = torch.autograd.grad(call(v.requires_grad_()), v)
    v = v.detach()
    torch.testing.assert_close(torch.func.grad(call)(v), expected)
    with torch.set_grad_enabled(recorded):
        torch.testing.assert_close(torch.func.vmap(call)(torch.stack([v, 2 * v])), torch.stack([call(v), call(2 * v)]))
        _, slope = torch.func.jvp(call, (v,), (torch.ones_like(v),))
    torch.testing.assert_close(slope, expected.sum())


@pytest.mark.parametrize(("images", "captions"), [(0, 3), (2, 0), (0, 0)])
def test_no_pairs(images: int, captions: int) -> None:
    v, w = torch.zeros(images, 4, 8, requires_grad=True), torch.zeros(captions, 5, 8)
    assert attended_scores(v, w, head=Head()).shape == (images, captions)
    assert list(attended_features(v, w)) == []


def test_one_tile_lives_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while gradients are computed; and a tile's size does not follow the number of pairs."""
    monkeypatch.setattr(attended, "_TILE", {"cpu": 2**9, "other": 2**9})
    monkeypatch.setattr(attended, "_QUERY_ROWS", {"cpu": 16, "other": 16})
    head = Head()
    alive: list[weakref.ref] = []
    most, largest, again = 0, 0, 0

    def watched(tile: AttendedTile) -> Tensor:
        nonlocal most, largest, again
        alive[:] = [x for x in alive if x() is not None]
        alive.append(weakref.ref(tile.attended))
        most, largest = max(most, len(alive)), max(largest, tile.attended.numel())
        again += tile.again
        return head(tile)

    for images, tiles in ((8, 20), (16, 40)):
        v, w = problem((5,) * images, (6,) * 20)
        scores = attended_scores(v.requires_grad_(), w, (6,) * 20, (5,) * images, head=watched)
        assert largest <= 2**9
        assert again == 0
        scores.sum().backward()
        assert again == tiles
        again = 0
    assert most <= 2


def test_a_head_that_draws_draws_the_same_again() -> None:
    """The score is linear in what was kept: its gradient tells what the second run kept."""
    v, w = problem((5, 5), (4,))
    kept: list[Tensor] = []

    def head(tile: AttendedTile) -> Tensor:
        kept.append(torch.nn.functional.dropout(torch.ones_like(tile.attended)))
        return (tile.attended * kept[-1]).sum((-1, -2))

    attended_scores(v.requires_grad_(), w, [4], [5, 5], head=head).sum().backward()
    assert len(kept) == 2
    assert torch.equal(*kept)
    assert 0 < kept[0].count_nonzero() < kept[0].numel()


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_all_images_in_each_tile(direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attended, "_TILE", {"cpu": 2**10, "other": 2**10})
    v, w = problem((5,) * 9)
    tiles = list(attended_features(v, w, WORDS, (5,) * 9, direction=direction, all_images=True))
    assert all(tile.images.tolist() == list(range(9)) for tile in tiles)
    assert sorted(j for tile in tiles for j in tile.captions.tolist()) == list(range(5))
    with pytest.raises(ValueError, match="all_images: expected images of one number of regions, got 1 to 36"):
        attended_features(*problem(), WORDS, REGIONS, all_images=True)


ERRORS: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "array": (TypeError, "images: expected a tensor, got ndarray", {"images": torch.zeros(2, 3, 8).numpy()}),
    "integers": (TypeError, "captions: expected a floating dtype", {"captions": torch.zeros(2, 3, 8).long()}),
    "width": (ValueError, "captions: expected a last dimension of 8", {"captions": torch.zeros(2, 3, 7)}),
    "sparse": (TypeError, "images: .* layout torch.sparse_coo", {"images": torch.ones(2, 4, 8).to_sparse()}),
    "lengths": (ValueError, r"caption_lengths\[1\]: expected a length from 1 to 3, got 4", {"caption_lengths": [1, 4]}),
    "packed": (ValueError, "image_lengths: expected the number of rows", {"images": torch.zeros(3, 8)}),
    "head": (TypeError, "head: expected a module or a function, got NoneType", {"head": None}),
    "direction": (ValueError, "direction: expected 't2i' or 'i2t', got 'both'", {"direction": "both"}),
    "attention": (
        TypeError,
        "attention: expected an Attention or None, got PairScorer",
        {"attention": PairScorer.chan()},
    ),
    "steps": (ValueError, "attention: expected one step .* got steps=2", {"attention": Attention(steps=2)}),
    "aware": (ValueError, "got steps=1, attend='negative", {"attention": Attention(attend="negative_aware")}),
    "state": (ValueError, r"image_state: expected 2 rows .* got shape \(3, 1\)", {"image_state": torch.zeros(3, 1)}),
    "sparse state": (TypeError, "image_state: .* layout", {"image_state": torch.ones(2, 1).to_sparse()}),
    "no state": (TypeError, "caption_state: expected a tensor or None, got int", {"caption_state": 3}),
    "shape": (ValueError, r"head: expected floating scores of shape \(2, 2\)", {"head": lambda t: t.attended}),
    "scores": (ValueError, "head: expected floating .* got int", {"head": lambda t: 3}),
}


@pytest.mark.parametrize("name", ERRORS)
def test_bad_input(name: str) -> None:
    error, message, changed = ERRORS[name]
    given = {"images": torch.zeros(2, 4, 8), "captions": torch.zeros(2, 3, 8), "head": Head(torch.float32)}
    with pytest.raises(error, match=message):
        attended_scores(**{**given, **changed})


@pytest.mark.parametrize("unit", [False, True])
def test_what_is_chosen_is_looked_up_not_multiplied(unit: bool) -> None:
    """Of hard attention, forward and backward, the products of queries and context are all there are."""
    v, w = (x.requires_grad_() for x in problem())
    lengths = torch.tensor(WORDS), torch.tensor(REGIONS)
    with FlopCounterMode(display=False) as counted:
        scores = attended_scores(v, w, *lengths, head=dots, attention=Attention(attend="hard"), unit=unit)
        scores.sum().backward()
    gram = sum(n * n for n in REGIONS) if unit else 0
    assert counted.get_total_flops() <= 2 * WIDTH * (2 * len(v) * len(w) + 3 * gram)  # a tile is made twice


def test_a_compiled_function_is_broken_once() -> None:
    """Neither tiles nor the head are traced, which would be compiled again for every new length."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    v, w = normalize(torch.randn(4, 5, WIDTH), dim=-1), normalize(torch.randn(4, 6, WIDTH), dim=-1)
    v.requires_grad_()

    def call(v: Tensor, lengths: Tensor) -> Tensor:
        return attended_scores(2 * v, w, lengths, head=dots).sin()

    compiled = torch.compile(call, backend="aot_eager")
    for lengths in ([6, 5, 3, 2], [4, 4, 4, 1], [6, 1, 2, 3]):
        grads = [torch.autograd.grad(f(v, torch.tensor(lengths)).sum(), v)[0] for f in (compiled, call)]
        torch.testing.assert_close(*grads)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # before it and after it


def dots(tile: AttendedTile) -> Tensor:
    return (tile.attended * tile.queries).sum((2, 3))
