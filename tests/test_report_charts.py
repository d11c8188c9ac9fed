"""The numbers of a report's charts: bins of ranks, thinned curves."""

from __future__ import annotations

import numpy as np
from score_matrices import matrix

from cmsei_fast import recall_metrics
from cmsei_fast.report.evaluation_charts import rank_bins, thin_out


def test_bins_are_what_recalls_count():
    ranks = np.array([1, 1, 1.5, 2, 3, 5, 5.5, 10, 11, 60, 1500, np.nan])
    names, heights = rank_bins(ranks)
    assert names == ["1", "2", "3–5", "6–10", "11–20", "21–50", "51–100", "101–200", "201–500", "501–1k", "1001–2k"]
    np.testing.assert_allclose(np.array(heights) * 11 / 100, [2, 2, 2, 2, 1, 0, 1, 0, 0, 0, 1])
    metrics = recall_metrics(*[matrix()[0]], captions_per_image=3)
    _, heights = rank_bins(metrics.t2i.ranks)
    np.testing.assert_allclose(np.cumsum(heights)[[0, 2, 3]], [metrics.t2i.r1, metrics.t2i.r5, metrics.t2i.r10])


def test_long_curves_are_means_of_runs():
    steps, values = np.arange(3000.0), np.repeat(np.arange(300.0), 10)
    where, mean, low, high = thin_out(steps, values)
    np.testing.assert_array_equal(mean, np.arange(300.0))
    np.testing.assert_array_equal(where[:2], [4.5, 14.5])
    np.testing.assert_array_equal(low, high)
    assert thin_out(steps[:300], values[:300])[2] is None
