"""Recalls and ranks against an implementation of others, the package ``fico-itr``, on random and on tied scores."""

from __future__ import annotations

import numpy as np
import pytest

from cmsei_fast import recall_metrics

fico_itr = pytest.importorskip("fico_itr")


def theirs(scores: np.ndarray, captions: int) -> np.ndarray:
    """R@1, R@5, R@10, median and mean rank of i2t, then of t2i."""
    both = fico_itr.instance_retrieval(scores.astype(np.float64), captions_per_image=captions)
    return np.array([[way[key] for key in ("R@1", "R@5", "R@10", "MedianR", "MeanR")] for way in both])


def ours(scores: np.ndarray, captions: int) -> np.ndarray:
    metrics = recall_metrics(scores, captions_per_image=captions)
    return np.array([[d.r1, d.r5, d.r10, d.median_rank, d.mean_rank] for d in (metrics.i2t, metrics.t2i)])


@pytest.mark.parametrize("captions", [2, 5])
@pytest.mark.parametrize("images", [3, 40, 101])
def test_random_scores(images, captions):
    rng = np.random.default_rng(images + captions)
    scores = rng.standard_normal((images, images * captions)).astype(np.float32)
    scores[np.repeat(np.arange(images), captions), np.arange(images * captions)] += 1.5
    expected, got = theirs(scores, captions), ours(scores, captions)
    np.testing.assert_allclose(got[:, [0, 1, 2, 4]], expected[:, [0, 1, 2, 4]], rtol=1e-9)
    # Theirs rounds a median between two ranks down.
    np.testing.assert_array_equal(np.floor(got[:, 3]), expected[:, 3])


@pytest.mark.parametrize("values", [2, 4, 30])
def test_tied_scores(values):
    """A tie counts as half: the mean of the ranks with every tie won and with every tie lost."""
    images, captions = 60, 5
    rng = np.random.default_rng(values)
    scores = rng.integers(0, values, (images, images * captions)).astype(np.float32)
    own = np.zeros_like(scores)
    own[np.repeat(np.arange(images), captions), np.arange(images * captions)] = 0.25
    won, lost, got = theirs(scores + own, captions), theirs(scores - own, captions), ours(scores, captions)
    assert not np.allclose(won, lost), "there must be ties"
    np.testing.assert_allclose(got[:, 4], (won[:, 4] + lost[:, 4]) / 2, rtol=1e-9)
    assert (lost[:, :3] <= got[:, :3]).all()
    assert (got[:, :3] <= won[:, :3]).all()
