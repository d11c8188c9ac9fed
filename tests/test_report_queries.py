"""The best and the worst queries that a report shows: against sorting."""

from __future__ import annotations

import numpy as np
import pytest
from score_matrices import matrix

from cmsei_fast import recall_metrics
from cmsei_fast.report.queries import extremes


@pytest.mark.parametrize("folds", [1, 4])
@pytest.mark.parametrize("shuffled", [False, True])
def test_extremes_are_the_literal_ones(folds, shuffled):
    scores, owner = matrix()
    if shuffled:
        order = np.random.default_rng(5).permutation(len(owner))
        scores, owner = np.ascontiguousarray(scores[:, order]), owner[order]
    metrics = recall_metrics(scores, caption_to_image=owner, folds=folds)
    images, captions = extremes(scores, metrics, owner, count=3, top=4)
    run = np.arange(40) // (40 // folds)

    def sorted_queries(ranks, rows, own, fits):
        margins = [r[o & f].max() - r[~o & f].max() for r, o, f in zip(rows, own, fits, strict=True)]
        return sorted(range(len(ranks)), key=lambda i: (ranks[i], -margins[i]))

    own = owner == np.arange(40)[:, None]
    fits = run[owner] == run[:, None]
    for found, ranks, rows, mine, there in (
        (images, metrics.i2t.ranks, scores, own, fits),
        (captions, metrics.t2i.ranks, scores.T, own.T, fits.T),
    ):
        order = sorted_queries(ranks, rows, mine, there)
        assert [q.index for q in found.best] == order[:3]
        assert [q.index for q in found.worst] == order[::-1][:3]
        for q in (*found.best, *found.worst):
            row = np.where(there[q.index], rows[q.index], -np.inf)
            assert [f.index for f in q.top] == np.argsort(-row, kind="stable")[:4].tolist()
            assert [f.own for f in q.top] == mine[q.index][[f.index for f in q.top]].tolist()
            assert [f.score for f in q.top] == row[[f.index for f in q.top]].tolist()
            assert q.rank == ranks[q.index]
            assert q.own.score == row[mine[q.index]].max()


def test_extremes_of_few_queries_show_none_twice():
    scores = np.array([[1.0, 0.0, np.inf]], dtype=np.float32)  # one image: no rival, infinite margins
    owner = np.zeros(3, dtype=np.int64)
    images, captions = extremes(scores, recall_metrics(scores, caption_to_image=owner), owner)
    assert (len(images.best), len(images.worst)) == (1, 0)
    shown = [q.index for q in (*captions.best, *captions.worst)]
    assert sorted(shown) == [0, 1, 2]
