"""retrieve and evaluate without the matrix: the numbers of the whole matrix to the bit, ties included."""

from __future__ import annotations

import re
import threading
import tracemalloc

import numpy as np
import pytest
import torch

from cmsei_fast import PairScorer, engines, evaluate, recall_metrics, retrieve, score_matrix, tiling
from cmsei_fast.retrieval import evaluation
from cmsei_fast.retrieval.rank_count import RankCount
from cmsei_fast.retrieval.topk import TopK

CPU = torch.device("cpu")


def problem(n_image=12, n_caption=30, seed=0, distinct=None):
    """Features; with ``distinct``, items repeat, so that many scores tie."""
    rng = np.random.default_rng(seed)
    images, captions = rng.standard_normal((n_image, 5, 12)), rng.standard_normal((n_caption, 7, 12))
    n, m = rng.integers(1, 6, n_image), rng.integers(1, 8, n_caption)
    if distinct:
        images, n = images[np.arange(n_image) % distinct], n[np.arange(n_image) % distinct]
        captions, m = captions[np.arange(n_caption) % distinct], m[np.arange(n_caption) % distinct]
    return images.astype(np.float32), captions.astype(np.float32), m, n


@pytest.fixture(params=["small", "large"])
def blocks(request, monkeypatch):
    """Blocks of few items and tiles of few pairs, or all in one."""
    if request.param == "small":
        monkeypatch.setattr(tiling, "IMAGE_BLOCK_BYTES", 5 * 5 * 12 * 4)
        monkeypatch.setattr(tiling, "CAPTION_BLOCK_BYTES", 7 * 7 * 12 * 4)
        monkeypatch.setattr(tiling, "TILE_WORK", dict.fromkeys(tiling.TILE_WORK, 200_000))


def best_of(scores, k):
    """Rows of (indices, scores) by plain sorting: the higher score first, then the lower index."""
    order = np.stack([np.lexsort((np.arange(scores.shape[1]), -row))[:k] for row in scores])
    return order, np.take_along_axis(scores, order, 1)


def same(a, b):
    assert a.to_dict() == b.to_dict()
    np.testing.assert_array_equal(a.i2t.ranks, b.i2t.ranks)
    np.testing.assert_array_equal(a.t2i.ranks, b.t2i.ranks)


@pytest.mark.parametrize(("distinct", "k"), [(None, 4), (3, 4), (3, 100)])
@pytest.mark.parametrize("query", ["caption", "image"])
def test_retrieve_is_the_best_of_the_matrix(engine, query, k, distinct, blocks):
    features = problem(distinct=distinct)
    scores = score_matrix(*features, engine=engine)
    got = retrieve(*features, k=k, query=query, engine=engine)
    indices, expected = best_of(scores.T if query == "caption" else scores, k)
    np.testing.assert_array_equal(got.indices, indices)
    np.testing.assert_array_equal(got.scores, expected)
    assert got.scores.dtype == scores.dtype
    assert got.indices.dtype == np.int64


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("distinct", [None, 3])
@pytest.mark.parametrize("query", ["caption", "image"])
def test_candidates_are_ranked_as_in_the_matrix(engine, query, distinct, count, blocks):
    features = problem(distinct=distinct)
    scores = score_matrix(*features, engine=engine)
    scores = scores.T if query == "caption" else scores
    rng = np.random.default_rng(count)
    chosen = np.stack([rng.permutation(scores.shape[1])[:count] for _ in scores])
    masked = np.full_like(scores, -np.inf)
    np.put_along_axis(masked, chosen, np.take_along_axis(scores, chosen, 1), 1)
    for k in (3, 100):
        got = retrieve(*features, k=k, query=query, candidates=chosen, engine=engine)
        indices, expected = best_of(masked, min(k, count))
        assert got.scores.dtype == scores.dtype
        assert got.indices.shape == expected.shape
        if engine == "native":
            np.testing.assert_array_equal(got.scores, expected)
            np.testing.assert_array_equal(got.indices, indices)
            continue
        np.testing.assert_allclose(got.scores, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(np.take_along_axis(scores, got.indices, 1), got.scores, rtol=1e-5, atol=1e-6)
        assert all(set(a) <= set(b) for a, b in zip(got.indices, chosen, strict=True))


def test_candidates_of_tensors_and_files(tmp_path, blocks, capsys):
    images, captions, m, n = problem()
    chosen = np.stack([np.random.default_rng(j).permutation(12)[:4] for j in range(30)])
    expected = retrieve(images, captions, m, n, candidates=chosen, k=2)
    tensors = [torch.from_numpy(x) for x in (images, captions)]
    got = retrieve(*tensors, m, n, candidates=torch.from_numpy(chosen), k=2, progress=True)
    assert isinstance(got.indices, torch.Tensor)
    np.testing.assert_array_equal(got.indices, expected.indices)
    np.testing.assert_array_equal(got.scores, expected.scores)
    assert "100 % of 120 pairs" in capsys.readouterr().err
    for name, array in (("images", images), ("captions", captions)):
        array.tofile(tmp_path / name)
    files = [
        np.memmap(tmp_path / name, np.float32, "r", shape=x.shape)
        for name, x in zip(("images", "captions"), (images, captions), strict=True)
    ]
    got = retrieve(*files, m, n, candidates=chosen.astype(np.int32), k=2)
    np.testing.assert_array_equal(got.indices, expected.indices)
    np.testing.assert_array_equal(got.scores, expected.scores)


@pytest.mark.parametrize("form", ["array", "tensor", "memmap", "h5py"])
@pytest.mark.parametrize("lengths", ["none", "padded", "packed"])
@pytest.mark.parametrize("query", ["caption", "image"])
def test_only_candidates_are_read(tmp_path, blocks, form, lengths, query):
    """What is nobody's candidate holds NaN, which is an error where it is read."""
    images, captions, m, n = problem()
    if lengths == "none":
        m = n = None
    asked = query == "image"
    count, queries = (30, 12) if asked else (12, 30)
    used = np.array([0, 3, 4, 5, 9, 11])  # alone, neighbours, the last of the images
    rng = np.random.default_rng(1)
    chosen = np.stack([rng.permutation(used)[:4] for _ in range(queries)])
    expected = retrieve(images, captions, m, n, query=query, candidates=chosen, k=3, precision="bfloat16")

    def given(unread):
        sides = [images.copy(), captions.copy()]
        sides[asked][unread] = np.nan
        if lengths == "packed":
            sides = [side[np.arange(side.shape[1]) < k[:, None]] for side, k in zip(sides, (n, m), strict=True)]
        if form == "tensor":
            return [torch.from_numpy(side) for side in sides]
        if form == "array":
            return sides
        if form == "h5py":
            h5py = pytest.importorskip("h5py")
            file = h5py.File(tmp_path / f"{len(list(tmp_path.iterdir()))}.h5", "w")
            return [file.create_dataset(name, data=side) for name, side in zip("ab", sides, strict=True)]
        for name, side in zip("ab", sides, strict=True):
            np.save(tmp_path / f"{name}.npy", side)
        return [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "ab"]

    options = {"query": query, "candidates": chosen, "k": 3, "precision": "bfloat16"}
    got = retrieve(*given(np.setdiff1d(np.arange(count), used)), m, n, **options)
    np.testing.assert_array_equal(got.indices, expected.indices)
    np.testing.assert_array_equal(got.scores, expected.scores)
    item = "caption" if asked else "image"
    with pytest.raises(ValueError, match=rf"^{item}s: expected finite features, got NaN or an infinity in {item} 9$"):
        retrieve(*given([9]), m, n, **options)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
@pytest.mark.parametrize("query", ["caption", "image"])
def test_queries_with_fewer_candidates(query, kind, blocks):
    features = problem()
    scores = score_matrix(*features)
    scores = scores.T if query == "caption" else scores
    rng = np.random.default_rng(5)
    rows = [kind(rng.permutation(scores.shape[1])[: i % 5].tolist()) for i in range(len(scores))]
    if kind is torch.tensor:
        rows = [row.to(torch.int32) for row in rows]
    square = np.full((len(rows), 6), -1)
    for i, row in enumerate(rows):
        square[i, 6 - len(row) :] = np.asarray(row)
    masked = np.full_like(scores, -np.inf)
    for i, row in enumerate(rows):
        masked[i, np.asarray(row, np.int64)] = scores[i, np.asarray(row, np.int64)]
    indices, expected = best_of(masked, 3)
    indices[expected == -np.inf] = -1
    for given in (rows, square):
        got = retrieve(*features, k=3, query=query, candidates=given)
        np.testing.assert_array_equal(got.scores, expected)
        np.testing.assert_array_equal(got.indices, indices)


def test_no_query_has_a_candidate():
    images, captions, m, n = problem()
    got = retrieve(images, captions, m, n, k=2, candidates=np.full((30, 3), -1))
    assert np.array_equal(got.indices, np.full((30, 2), -1))
    assert np.array_equal(got.scores, np.full((30, 2), -np.inf, np.float32))


def test_nobody_asks_for_candidates():
    images, captions, m, n = problem()
    none = np.zeros((0, 4), np.int64)
    assert retrieve(images, captions[:0], m[:0], n, candidates=none).indices.shape == (0, 4)
    assert retrieve(images[:0], captions, m, n[:0], candidates=none, query="image").scores.shape == (0, 4)


def test_candidates_that_do_not_fit():
    features = problem()
    good = np.tile(np.arange(4), (30, 1))
    for wrong, error in (
        (good[:12], r"candidates: expected shape \(30, c\), a row for each caption, got \(12, 4\)"),
        (good[0], r"candidates: expected shape \(30, c\), a row for each caption, got \(4,\)"),
        (
            good[:, :0],
            r"candidates: expected shape \(30, c\), a row for each caption, got \(30, 0\); c is at least 1, and",
        ),
        (good + 9, r"candidates\[0, 3\]: expected an item from 0 to 11, or -1 for none, got 12"),
        (good - 2, r"candidates\[0, 0\]: expected an item from 0 to 11, or -1 for none, got -2"),
        ([*good[1:], good], r"candidates\[29\]: expected one row of items, got shape \(30, 4\)"),
        (good % 3, r"candidates\[0\]: expected different items, got 0 twice"),
    ):
        with pytest.raises(ValueError, match=error):
            retrieve(*features, candidates=wrong)
    with pytest.raises(TypeError, match="candidates: expected integers, got float64"):
        retrieve(*features, candidates=good.astype(float))
    with pytest.raises(ValueError, match="screen: expected None beside candidates, got 'bfloat16'"):
        retrieve(*features, candidates=good, screen="bfloat16", scorer=PairScorer.maxsim())
    huge = features[1].copy()
    huge[7] = 3e38
    spread = np.tile(np.arange(3, 12, 4), (30, 1))  # the first image that the caption meets is the one named
    with pytest.raises(ValueError, match="got an overflow for image 3 and caption 7"):
        retrieve(features[0], huge, *features[2:], candidates=spread, scorer=PairScorer.maxsim())


@pytest.mark.parametrize(("distinct", "folds"), [(None, 1), (3, 1), (3, 4)])
@pytest.mark.parametrize("order", ["in order", "shuffled", "uneven"])
def test_evaluate_is_the_ranks_of_the_matrix(engine, folds, order, distinct, blocks, monkeypatch):
    features = problem(distinct=distinct)
    rng = np.random.default_rng(3)
    owner = {
        "in order": np.sort(np.arange(30) % 12),
        "shuffled": rng.permutation(np.arange(30) % 12),
        "uneven": np.concatenate([[0, 3, 6, 9], rng.choice([0, 2, 3, 6, 9, 11], 26)]),
    }[order]
    scores = score_matrix(*features, engine=engine)
    expected = recall_metrics(scores, caption_to_image=owner, folds=folds)
    for room in (0, 1 << 20):
        monkeypatch.setattr(evaluation, "KEPT_BYTES", room)
        same(evaluate(*features, engine=engine, caption_to_image=owner, folds=folds), expected)


def test_ties_with_negative_zero():
    scores = torch.tensor([[0.0, -0.0, 0.0, -1.0]])
    best = TopK(1, 4, 3, torch.float32, CPU)
    for j in (2, 0, 3, 1):
        best.update(slice(0, 1), slice(j, j + 1), scores[:, j : j + 1])
    assert best.indices.tolist() == [[0, 1, 2]]


def test_only_rows_with_a_tie_at_the_end_are_sorted(monkeypatch):
    """Sorting every score takes longer than scoring short items; the order of ties must not need it."""
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((40, 500)).astype(np.float32)
    scores[::8] = rng.integers(-3, 4, (5, 500))  # many scores equal the k-th
    scores[4, 7] = scores[4].max() + 1
    scores[4, 70] = scores[4, 7]  # a tie within the best alone
    lengths = []
    real = torch.Tensor.sort

    def sort(self, *arguments, **options):
        lengths.extend([self.shape[1]] * len(self))
        return real(self, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "sort", sort)
    best = TopK(40, 500, 6, torch.float32, CPU)
    for first in (200, 0):
        items = slice(first, first + (300 if first else 200))
        best.update(slice(0, 40), items, torch.from_numpy(scores)[:, items])
    indices, expected = best_of(scores, 6)
    np.testing.assert_array_equal(best.indices, indices)
    np.testing.assert_array_equal(best.scores, expected)
    assert sum(n > 12 for n in lengths) == 10  # of 80 rows in two tiles


@pytest.mark.parametrize("precision", ["float64", "bfloat16"])
def test_precision_and_tensors(precision):
    images, captions, m, n = problem()
    images, captions = torch.from_numpy(images), torch.from_numpy(captions)
    scores = score_matrix(images, captions, m, n, precision=precision)
    got = retrieve(images, captions, m, n, precision=precision, k=2)
    assert isinstance(got.scores, torch.Tensor)
    assert got.scores.dtype == scores.dtype
    assert torch.equal(got.scores, scores.T.sort(dim=1, descending=True).values[:, :2])
    owner = np.arange(30) % 12
    same(
        evaluate(images, captions, m, n, precision=precision, caption_to_image=owner),
        recall_metrics(scores, caption_to_image=owner),
    )


@pytest.mark.parametrize("form", ["memmap", "h5py"])
def test_files_are_read_ahead_in_a_thread(form, tmp_path, blocks, monkeypatch):
    images, captions, m, n = problem()
    stored = []
    for name, array in (("images", images), ("captions", captions)):
        if form == "memmap":
            array.tofile(tmp_path / name)
            stored.append(np.memmap(tmp_path / name, dtype=array.dtype, shape=array.shape, mode="r"))
        else:
            h5py = pytest.importorskip("h5py")
            with h5py.File(tmp_path / name, "w") as file:
                file["x"] = array
            stored.append(h5py.File(tmp_path / name, "r")["x"])
    owner = np.arange(30) % 12
    expected = recall_metrics(score_matrix(images, captions, m, n), caption_to_image=owner)
    readers = set()
    real = tiling.Items.read

    def read(self, *arguments, **options):
        readers.add(threading.current_thread().name.split("_")[0])
        return real(self, *arguments, **options)

    monkeypatch.setattr(tiling.Items, "read", read)
    same(evaluate(*stored, m, n, caption_to_image=owner), expected)
    assert readers == {"cmsei-read"}
    readers.clear()
    evaluate(images, captions, m, n, caption_to_image=owner)
    assert readers == {"MainThread"}
    if form == "h5py":
        for x in stored:
            x.file.close()


def test_an_error_of_the_reading_thread_is_raised_here(tmp_path, monkeypatch):
    monkeypatch.setattr(tiling, "CAPTION_BLOCK_BYTES", 7 * 7 * 12 * 4)
    images, captions, m, n = problem()
    captions[25, 0, 3] = np.nan
    captions.tofile(tmp_path / "x")
    stored = np.memmap(tmp_path / "x", dtype=captions.dtype, shape=captions.shape, mode="r")
    with pytest.raises(ValueError, match=r"^captions: expected finite features, got NaN or an infinity in caption 25$"):
        retrieve(images, stored, m, n)
    assert not [t for t in threading.enumerate() if t.name.startswith("cmsei-read")]


def test_only_tiles_that_folds_need_are_scored(blocks, monkeypatch):
    features = problem(40, 80)
    module = engines.get("eager")
    real, scored = module.pair_score, []

    def counted(*arguments):
        out = real(*arguments)
        scored.append(out.numel())
        return out

    monkeypatch.setattr(module, "pair_score", counted)
    monkeypatch.setattr(tiling, "TILE_WORK", dict.fromkeys(tiling.TILE_WORK, 80_000))
    evaluate(*features, engine="eager", captions_per_image=2, folds=4)
    assert sum(scored) < 0.6 * 40 * 80


def test_memory_does_not_grow_with_the_pairs(monkeypatch):
    monkeypatch.setattr(tiling, "TILE_WORK", dict.fromkeys(tiling.TILE_WORK, 1 << 22))
    monkeypatch.setattr(evaluation, "KEPT_BYTES", 1 << 16)
    peaks = []
    for n in (100, 400):
        data = torch.randn(n, 3, 8, generator=torch.Generator().manual_seed(0)).numpy()
        for warm in (True, False):
            if not warm:
                tracemalloc.start()
            retrieve(data, data, k=3, scorer=PairScorer.scan_t2i())
            evaluate(data, data, captions_per_image=1, scorer=PairScorer.scan_t2i())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 150_000  # the pairs alone grew by 600 kB


def test_progress(capsys, blocks):
    features = problem()
    retrieve(*features, progress=True)
    assert "100 % of 360 pairs" in capsys.readouterr().err
    evaluate(*features, progress=True, caption_to_image=np.arange(30) % 12, folds=2)
    assert "100 % of" in capsys.readouterr().err


def test_a_true_pair_that_was_not_added_is_told():
    ranks = RankCount(np.array([0, 1]), 2, 1, torch.float32, CPU)
    ranks.add_true_pairs(slice(0, 1), slice(0, 2), torch.zeros(1, 2))
    with pytest.raises(RuntimeError, match=r"^caption 1: its image's score was not added$"):
        ranks.finish_true_pairs()


@pytest.mark.parametrize("query", ["caption", "image"])
@pytest.mark.parametrize(("images", "captions"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_retrieve(images, captions, query):
    got = retrieve(np.zeros((images, 2, 4), np.float32), np.zeros((captions, 2, 4), np.float32), query=query)
    asks, items = (captions, images) if query == "caption" else (images, captions)
    assert got.indices.shape == got.scores.shape == (asks, min(items, 10))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k: expected an integer >= 1, got 0"),
        ({"k": True}, "k: expected an integer >= 1, got True"),
        ({"k": 2.0}, "k: expected an integer >= 1, got 2.0"),
        ({"query": "text"}, 'query: expected "caption" or "image", got \'text\''),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        retrieve(*problem(), **options)


def test_files_keep_rows_that_nothing_was_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(tiling, "IMAGE_BLOCK_BYTES", 5 * 5 * 12 * 4)
    images, captions, m, n = problem()
    images[8, 0, 0] = np.nan
    out = np.memmap(tmp_path / "out", dtype=np.float32, shape=(12, 30), mode="w+")
    out[:] = 7
    with pytest.raises(ValueError, match="image 8"):
        score_matrix(images, captions, m, n, out=out)
    assert np.isfinite(out[:5]).all()
    assert (out[:5] != 7).all()
    assert (out[5:] == 7).all()
