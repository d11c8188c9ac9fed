"""Ranks and recalls against a brute-force count written from their definition alone."""

from __future__ import annotations

import itertools
import statistics

import numpy as np
import pytest
import torch

from cmsei_fast import evaluate, recall_metrics, score_matrix
from cmsei_fast.retrieval import matrix as module
from cmsei_fast.scorer import PairScorer


def brute_force(scores, owner, folds):
    """Plain Python: (i2t, t2i), each R@1, R@5, R@10, median, mean, averaged over the folds."""
    n_image = len(scores)
    size = n_image // folds
    per_fold = []
    for first in range(0, n_image, size):
        images = list(range(first, first + size))
        captions = [j for j, i in enumerate(owner) if i in images]
        asked = []
        for i in images:
            own = [scores[i][j] for j in captions if owner[j] == i]
            if own:
                others = [scores[i][j] for j in captions if owner[j] != i]
                asked.append(position(max(own), others))
        found = [position(scores[owner[j]][j], [scores[i][j] for i in images if i != owner[j]]) for j in captions]
        per_fold.append([summary(asked), summary(found)])
    return [[statistics.fmean(numbers) for numbers in zip(*side, strict=True)] for side in zip(*per_fold, strict=True)]


def position(own, others):
    rank = 1.0
    for other in others:
        rank += 1.0 if other > own else 0.5 if other == own else 0.0
    return rank


def summary(ranks):
    recalls = [100 * sum(rank <= level for rank in ranks) / len(ranks) for level in (1, 5, 10)]
    return [*recalls, statistics.median(ranks), statistics.fmean(ranks)]


def numbers(metrics):
    return [[d.r1, d.r5, d.r10, d.median_rank, d.mean_rank] for d in (metrics.i2t, metrics.t2i)]


def owners(kind, n_image, rng):
    if kind == "five each":
        return np.repeat(np.arange(n_image), 5)
    if kind == "shuffled":
        return rng.permutation(np.repeat(np.arange(n_image), 3))
    if kind == "uneven":
        return np.concatenate([np.arange(n_image), rng.integers(0, n_image, 2 * n_image)])
    return rng.integers(0, max(1, n_image - 1), 2 * n_image)  # some images have none, the last never has one


CASES = list(itertools.product(("five each", "shuffled", "uneven", "distractors"), ("distinct", "ties", "constant")))


@pytest.mark.parametrize(("kind", "values"), CASES, ids=[f"{a}-{b}".replace(" ", "_") for a, b in CASES])
@pytest.mark.parametrize(("n_image", "folds"), [(1, 1), (2, 1), (24, 1), (24, 3)])
@pytest.mark.parametrize("block", [1, 7, 1 << 24])
def test_equals_brute_force(monkeypatch, kind, values, n_image, folds, block):
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", block * 20)
    monkeypatch.setattr("cmsei_fast.retrieval.rank_count.CACHED", 200)
    rng = np.random.default_rng(n_image + len(kind))
    owner = owners(kind, n_image, rng)
    scores = rng.standard_normal((n_image, len(owner))).astype(np.float32)
    if values == "ties":
        scores = np.round(scores)
    elif values == "constant":
        scores[:] = 0.25
    got = recall_metrics(scores, caption_to_image=owner, folds=folds)
    expected = brute_force(scores.tolist(), owner.tolist(), folds)
    np.testing.assert_allclose(numbers(got), expected, rtol=1e-12)
    assert got.rsum == pytest.approx(sum(expected[0][:3]) + sum(expected[1][:3]))
    assert got.folds == folds


def test_known_ranks():
    scores = np.array([[0.9, 0.1, 0.8, 0.3], [0.95, 0.2, 0.7, 0.7]])
    got = recall_metrics(scores, 2)
    assert got.i2t.ranks.tolist() == [1.0, 2.0]
    assert got.t2i.ranks.tolist() == [2.0, 2.0, 2.0, 1.0]
    assert got.i2t.r1 == 50.0
    assert got.t2i.r1 == 25.0
    assert got.rsum == 50 + 100 + 100 + 25 + 100 + 100


def test_without_ties_ranks_are_those_of_argsort():
    scores = np.random.default_rng(3).standard_normal((30, 150))
    got = recall_metrics(scores)
    order = np.argsort(-scores, axis=1)
    first = [min(int(np.nonzero(order[i] == j)[0][0]) for j in range(5 * i, 5 * i + 5)) + 1 for i in range(30)]
    assert got.i2t.ranks.tolist() == first
    order = np.argsort(-scores, axis=0)
    assert got.t2i.ranks.tolist() == [int(np.nonzero(order[:, j] == j // 5)[0][0]) + 1 for j in range(150)]


def test_a_constant_matrix_ranks_in_the_middle():
    got = recall_metrics(np.zeros((101, 505)))
    assert set(got.t2i.ranks) == {51.0}
    assert set(got.i2t.ranks) == {1 + 500 / 2}
    assert got.rsum == 0


def test_image_without_caption_asks_nothing():
    got = recall_metrics(np.eye(3)[:, :2].copy(), caption_to_image=[0, 1])
    assert got.i2t.ranks[:2].tolist() == [1.0, 1.0]
    assert np.isnan(got.i2t.ranks[2])
    assert got.rsum == 600


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors(dtype):
    scores = torch.randn(8, 40, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    got = recall_metrics(scores)
    assert numbers(got) == numbers(recall_metrics(scores.detach().double().numpy()))


def test_memmaps_and_datasets(tmp_path):
    h5py = pytest.importorskip("h5py")
    scores = np.random.default_rng(0).standard_normal((10, 50)).astype(np.float16)
    memmap = np.memmap(tmp_path / "s.bin", dtype=np.float16, shape=scores.shape, mode="w+")
    memmap[:] = scores
    with h5py.File(tmp_path / "s.h5", "w") as file:
        dataset = file.create_dataset("scores", data=scores)
        for stored in (memmap, dataset):
            assert numbers(recall_metrics(stored, folds=2)) == numbers(recall_metrics(scores, folds=2))


def test_numpy_integers_are_integers():
    scores = np.random.default_rng(0).random((4, 8))
    assert recall_metrics(scores, np.int64(2), folds=np.int32(2)) == recall_metrics(scores, 2, folds=2)


def test_equal_metrics_are_equal():
    scores = np.random.default_rng(0).random((4, 8))
    scores[:, 0] = 0.5
    owner = [0, 0, 1, 1, 2, 2, 2, 2]  # image 3 asks nothing: its rank is NaN
    one, same = (recall_metrics(scores, caption_to_image=owner) for _ in range(2))
    assert one == same
    assert hash(one) == hash(same)
    moved = recall_metrics(scores[:, ::-1], caption_to_image=owner[::-1])  # the same figures, ranks in another order
    assert (one.t2i.to_dict(), one.i2t) == (moved.t2i.to_dict(), moved.i2t)
    assert one != moved
    assert one != 1


def test_infinities_are_ordinary_scores():
    scores = np.full((3, 3), -np.inf)
    np.fill_diagonal(scores, np.inf)
    assert recall_metrics(scores, 1).rsum == 600


def test_to_dict_and_text():
    got = recall_metrics(np.eye(4), 1)
    assert got.to_dict()["i2t"] == {"R@1": 100.0, "R@5": 100.0, "R@10": 100.0, "median rank": 1.0, "mean rank": 1.0}
    assert got.to_dict()["rSum"] == 600.0
    assert str(got).splitlines()[-1].split() == ["rSum", "600.0"]


NAN = np.eye(4)
NAN[2, 3] = np.nan
BAD = {
    "list": (
        ([[1.0]],),
        {},
        TypeError,
        "scores: expected a numpy array or a torch tensor, got list; numpy.asarray makes one",
    ),
    "integers": ((np.eye(2, dtype=int), 1), {}, TypeError, "scores: expected a floating dtype, got int64"),
    "rank": ((np.zeros(3),), {}, ValueError, "scores: expected shape (n_image, n_caption), got (3,)"),
    "empty": (
        (np.zeros((0, 5)),),
        {},
        ValueError,
        "scores: expected at least one image and one caption, got shape (0, 5)",
    ),
    "nan": ((NAN, 1), {}, ValueError, "scores: expected no NaN, got one at image 2, caption 3"),
    "nan in a fold": ((NAN, 1), {"folds": 2}, ValueError, "scores: expected no NaN, got one at image 2, caption 3"),
    "not five each": (
        (np.ones((4, 8)),),
        {},
        ValueError,
        "captions_per_image: expected 5 captions for each of 4 images (20), got 8; "
        "give caption_to_image for another map",
    ),
    "captions ask": (
        (np.ones((10, 2)),),
        {},
        ValueError,
        "captions_per_image: expected 5 captions for each of 10 images (50), got 2; "
        "the transpose (n_image, n_caption) would fit; or give caption_to_image for another map",
    ),
    "each image five times": (
        (np.eye(4),),
        {},
        ValueError,
        "captions_per_image: expected 5 captions for each of 4 images (20), got 4; "
        "where each image has one caption, write captions_per_image=1; "
        "where each comes 5 times in a row, score images[::5]; or give caption_to_image for another map",
    ),
    "map in place of a number": (
        (np.eye(4), [0, 1, 2, 3]),
        {},
        ValueError,
        "captions_per_image: expected an integer >= 1, got list; caption_to_image= takes the image of each caption",
    ),
    "zero captions": ((np.eye(4), 0), {}, ValueError, "captions_per_image: expected an integer >= 1, got 0"),
    "map of floats": (
        (np.eye(2),),
        {"caption_to_image": [0.0, 1.0]},
        TypeError,
        "caption_to_image: expected integers, got float64 of whole numbers: [int(x) for x in …] makes them integers",
    ),
    "short map": (
        (np.eye(2),),
        {"caption_to_image": [0]},
        ValueError,
        "caption_to_image: expected shape (2,), got (1,)",
    ),
    "map out of range": (
        (np.eye(2),),
        {"caption_to_image": [0, 2]},
        ValueError,
        "caption_to_image[1]: expected an image from 0 to 1, got 2",
    ),
    "negative map": (
        (np.eye(2),),
        {"caption_to_image": torch.tensor([0, -1])},
        ValueError,
        "caption_to_image[1]: expected an image from 0 to 1, got -1",
    ),
    "folds": (
        (np.eye(4), 1),
        {"folds": 3},
        ValueError,
        "folds: expected an integer >= 1 that divides 4 images, got 3",
    ),
    "no folds": (
        (np.eye(4), 1),
        {"folds": 0},
        ValueError,
        "folds: expected an integer >= 1 that divides 4 images, got 0",
    ),
    "fold without a caption": (
        (np.eye(4)[:, :2].copy(),),
        {"caption_to_image": [0, 1], "folds": 2},
        ValueError,
        "folds: expected a caption in each, got none for images 2 to 3",
    ),
}


@pytest.mark.parametrize("case", BAD, ids=[name.replace(" ", "_") for name in BAD])
def test_bad_input(case):
    arguments, options, kind, message = BAD[case]
    with pytest.raises(kind) as caught:
        recall_metrics(*arguments, **options)
    assert str(caught.value) == message


@pytest.mark.parametrize("folds", [1, 2])
@pytest.mark.parametrize("form", ["padded", "packed", "torch"])
def test_evaluate_is_scores_then_metrics(folds, form):
    rng = np.random.default_rng(1)
    images, captions = rng.standard_normal((4, 6, 16)), rng.standard_normal((20, 5, 16))
    lengths = rng.integers(1, 6, 20)
    scores = score_matrix(images, captions, lengths, engine="eager")
    if form == "packed":
        captions = np.concatenate([c[:n] for c, n in zip(captions, lengths, strict=True)])
    elif form == "torch":
        images, captions = torch.from_numpy(images), torch.from_numpy(captions)
    got = evaluate(images, captions, lengths, engine="eager", folds=folds)
    expected = recall_metrics(scores, folds=folds)
    assert numbers(got) == numbers(expected)
    np.testing.assert_array_equal(got.t2i.ranks, expected.t2i.ranks)


def test_evaluate_folds_of_a_map_out_of_order():
    rng = np.random.default_rng(1)
    images, captions = rng.standard_normal((4, 3, 8)), rng.standard_normal((8, 3, 8))
    owner = np.array([3, 0, 2, 1, 0, 1, 2, 3])
    scorer = PairScorer.scan_t2i()
    got = evaluate(images, captions, scorer=scorer, engine="eager", caption_to_image=owner, folds=2)
    scores = score_matrix(images, captions, scorer=scorer, engine="eager")
    assert numbers(got) == numbers(recall_metrics(scores, caption_to_image=owner, folds=2))


def test_evaluate_checks_the_map_before_scoring():
    with pytest.raises(ValueError, match=r"^captions_per_image: expected 5 captions"):
        evaluate(np.full((2, 3, 4), np.nan), np.zeros((3, 2, 4)))


def test_what_a_notebook_shows_is_short():
    metrics = recall_metrics(np.eye(400, 2000))
    assert "r1=" in repr(metrics)
    assert len(repr(metrics)) < 400
