"""The accuracy within groups against its definition, a caption at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cmsei_fast.retrieval.groups import group_accuracy

OWNER, GROUP = np.array([0, 1, 2, 3, 3, 1]), np.array([5, -1, 5, -1])


def literal(scores: np.ndarray) -> float:
    found = []
    for j, i in enumerate(OWNER):
        rivals = scores[np.equal(GROUP, GROUP[i]), j]
        found.append((scores[i, j] == rivals.max()) / (rivals == rivals.max()).sum())
    return 100 * float(np.mean(found))


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, lambda x: x.astype(">f8")])
@pytest.mark.parametrize("seed", range(4))
def test_accuracy(kind, seed):
    scores = np.random.default_rng(seed).integers(0, 3, (4, 6)).astype(float)
    assert group_accuracy(kind(scores), OWNER, GROUP) == literal(scores)


@pytest.mark.parametrize("value", [0.0, -np.inf, np.inf])
def test_equal_scores_are_at_chance(value):
    assert group_accuracy(np.full((4, 6), value), OWNER, GROUP) == 50


def test_float64_scores_of_a_tensor_stay_apart():
    scores = np.ones((4, 6))
    scores[OWNER, np.arange(6)] = 1 + 1e-12
    assert group_accuracy(torch.from_numpy(scores), OWNER, GROUP) == 100


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        (np.ones((4, 6), dtype=int), TypeError, "scores: expected a floating dtype, got int64"),
        (np.ones(6), ValueError, "scores: expected shape"),
        (np.full((4, 6), np.nan), ValueError, "scores: expected no NaN"),
    ],
)
def test_what_cannot_be_ranked_is_refused(scores, error, message):
    with pytest.raises(error, match=message):
        group_accuracy(scores, OWNER, GROUP)
