"""Intervals of a report's figures: against the bootstrap as it is said."""

from __future__ import annotations

import numpy as np
import pytest
from score_matrices import matrix

from cmsei_fast import recall_metrics
from cmsei_fast.report.bootstrap import recall_intervals


def literal_interval(metrics, owner, name, samples, seed):
    """The bootstrap as it is said: a list of drawn images, their queries, the mean."""
    rng = np.random.default_rng(seed)
    n = len(metrics.i2t.ranks)
    values = []
    for _ in range(samples):
        images = rng.integers(0, n, n)
        if name.startswith("i2t"):
            ranks = metrics.i2t.ranks[images]
        else:
            ranks = np.concatenate([metrics.t2i.ranks[owner == i] for i in images])
        values.append(np.mean(ranks) if "mean" in name else 100 * np.mean(ranks <= int(name.split("@")[1])))
    return np.quantile(values, (0.025, 0.975))


@pytest.mark.parametrize("name", ["i2t R@1", "t2i R@5", "t2i mean rank"])
def test_intervals_are_those_of_resampled_images(name):
    scores, owner = matrix()
    metrics = recall_metrics(scores, caption_to_image=owner)
    found = recall_intervals(metrics, owner, samples=4000)[name]
    low, high = literal_interval(metrics, owner, name, 4000, seed=1)
    assert high - low > 0.1
    assert found.low == pytest.approx(low, abs=0.15 * (high - low))
    assert found.high == pytest.approx(high, abs=0.15 * (high - low))


def test_intervals_are_seeded_and_hold_the_figure():
    scores, owner = matrix()
    for folds in (1, 4):
        metrics = recall_metrics(scores, caption_to_image=owner, folds=folds)
        found = recall_intervals(metrics, owner, seed=3)
        assert found == recall_intervals(metrics, owner, seed=3)
        assert found != recall_intervals(metrics, owner, seed=4)
        for key, d in (("i2t", metrics.i2t), ("t2i", metrics.t2i)):
            for name, value in zip(("R@1", "R@5", "R@10", "mean rank"), (d.r1, d.r5, d.r10, d.mean_rank), strict=True):
                assert found[f"{key} {name}"].low <= value <= found[f"{key} {name}"].high
        assert found["rSum"].low < metrics.rsum < found["rSum"].high


def test_intervals_of_perfect_scores_are_points():
    owner = np.repeat(np.arange(6), 2)
    owner[-1] = 0  # image 5 keeps one caption
    scores = (owner == np.arange(7)[:, None]).astype(np.float32)  # image 6 has none
    found = recall_intervals(recall_metrics(scores, caption_to_image=owner), owner, samples=50)
    assert found["rSum"].low == found["rSum"].high == pytest.approx(600)


@pytest.mark.parametrize(("option", "value"), [("samples", 1), ("samples", True), ("seed", -1), ("seed", 0.5)])
def test_intervals_name_a_bad_option(option, value):
    scores, owner = matrix()
    with pytest.raises(ValueError, match=f"{option}: expected an integer"):
        recall_intervals(recall_metrics(scores, caption_to_image=owner), owner, **{option: value})
