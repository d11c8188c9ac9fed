"""``i2t`` and ``t2i`` of every repository: ranks against sorting, ties, and matrices that are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from field_written_out import sorted_ranks

from cmsei_fast import recall_metrics
from cmsei_fast.compat import bfan, export, laps, naaf, scan, vse_infinity


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
@pytest.mark.parametrize("images", [1, 7, 20, 60])
def test_metrics_are_the_field_s_without_ties(direction: str, images: int) -> None:
    sims = np.random.default_rng(images).standard_normal((images, 5 * images))
    ranks, top = sorted_ranks(sims, 5, direction)
    expected = [100.0 * len(np.where(ranks < k)[0]) / len(ranks) for k in (1, 5, 10)]
    expected += [np.floor(np.median(ranks)) + 1, ranks.mean() + 1]
    features = np.zeros((images, 2, 3)), np.zeros((5 * images, 2, 3)), [2] * (5 * images)
    calls = [
        getattr(scan, direction)(*features, sims, return_ranks=True),
        getattr(bfan, direction)(images, sims, return_ranks=True),
        getattr(naaf, direction)(features[0], sims, return_ranks=True),
        getattr(vse_infinity, direction)(images, sims, return_ranks=True),
        getattr(laps, direction)(images, torch.from_numpy(sims), return_ranks=True),
    ]
    for metrics, (found, best) in calls:
        assert isinstance(metrics, tuple)  # the scripts print it by "%.1f %.1f %.1f %.1f %.1f" % r
        assert list(metrics) == expected
        np.testing.assert_array_equal(found, ranks)
        np.testing.assert_array_equal(best, top)
    assert getattr(scan, direction)(*features, sims) == calls[0][0]


def test_ties_do_not_depend_on_their_place() -> None:
    sims = np.zeros((4, 20))
    metrics, (ranks, _) = bfan.t2i(4, sims, return_ranks=True)
    assert set(ranks) == {2.0}  # three rivals as good: 1.5 places, rounded up
    assert metrics == (0.0, 100.0, 100.0, 3.0, 3.0)


def test_the_best_of_a_tensor_is_as_exact_as_that_of_an_array() -> None:
    sims = np.random.default_rng(0).standard_normal((4, 20))
    sims[2, 7] = np.nextafter(sims[2].max(), 9.0)  # equal in float32
    best = [bfan.i2t(4, kind(sims), return_ranks=True)[1][1] for kind in (np.asarray, torch.from_numpy)]
    assert best[0][2] == 7
    np.testing.assert_array_equal(*best)


def test_wrong_matrices_are_refused() -> None:
    sims = np.random.default_rng(0).standard_normal((4, 20))
    with pytest.raises(ValueError, match="NaN"):
        bfan.i2t(4, np.where(sims == sims[2, 3], np.nan, sims))
    with pytest.raises(ValueError, match=r"sims: expected 5 rows \(npts, one per image\), got shape \(4, 20\)"):
        bfan.i2t(5, sims)
    with pytest.raises(ValueError, match="expected 5 captions for each of 20 images"):
        vse_infinity.t2i(20, np.repeat(sims, 5, axis=0))
    with pytest.raises(ValueError, match="sims: expected a row for each of 3 images, got 4"):
        scan.i2t(np.zeros((3, 2, 2)), None, None, sims)


NO_SIMS: dict[str, tuple[Any, type[Exception], str]] = {
    "none": (None, TypeError, "expected a numpy array or a torch tensor, got NoneType"),
    "a number": (np.ones(()), ValueError, r"expected shape \(n_image, n_caption\), got \(\)"),
    "integers": (np.ones((4, 20), dtype=int), TypeError, "expected a floating dtype, got int64"),
    "without data": (torch.ones(4, 20, device="meta"), ValueError, "expected a tensor that holds data"),
    "sparse": (torch.ones(4, 20).to_sparse(), TypeError, "got a torch tensor of layout"),
}


@pytest.mark.parametrize("name", NO_SIMS)
def test_what_cannot_be_ranked_is_told_by_name(name: str) -> None:
    sims, error, told = NO_SIMS[name]
    calls = {"sims": [lambda: scan.i2t(np.ones((4, 2)), None, None, sims), lambda: bfan.t2i(4, sims)]}
    calls["scores"] = [lambda: export.fico_itr_arguments(sims), lambda: recall_metrics(sims)]
    for argument, each in calls.items():
        for call in each:
            with pytest.raises(error, match=f"^{argument}: .*{told}"):
                call()
