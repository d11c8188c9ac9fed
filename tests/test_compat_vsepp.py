"""VSE++'s functions, which score their features: ranks against sorting, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from field_written_out import sorted_ranks

from cmsei_fast.compat import vsepp


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
@pytest.mark.parametrize("measure", ["cosine", "order"])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_vsepp_scores_its_features(direction: str, measure: str, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vsepp, "_BLOCK", 1000)  # several blocks of images
    rng = np.random.default_rng(3)
    once, captions = rng.standard_normal((9, 6)), rng.standard_normal((45, 6)) + 1  # or many pairs are in order: ties
    pairs = {
        "cosine": lambda x, y: x @ y,
        "order": lambda x, y: -np.sqrt((np.maximum(y - x, 0) ** 2).sum()),
    }
    sims = np.array([[pairs[measure](x, y) for y in captions] for x in once])
    ranks, top = sorted_ranks(sims, 5, direction)
    call = getattr(vsepp, direction)
    metrics, (found, best) = call(kind(np.repeat(once, 5, axis=0)), kind(captions), 9, measure, return_ranks=True)
    np.testing.assert_array_equal(found, ranks)
    np.testing.assert_array_equal(best, top)
    assert metrics[0] == 100 * np.mean(ranks < 1)
    assert metrics == call(kind(np.repeat(once, 5, axis=0)), kind(captions), measure=measure)


@pytest.mark.parametrize("measure", ["cosine", "order"])
@pytest.mark.parametrize(
    "kinds",
    [
        (lambda x: x.astype(np.float32), np.asarray),
        (np.asarray, lambda x: torch.from_numpy(x).bfloat16()),
        (lambda x: torch.from_numpy(x).bfloat16(),) * 2,
        (lambda x: x.astype(np.float16),) * 2,
        (lambda x: x.astype(">f4"), lambda x: x.astype(">f8")),
    ],
    ids=["float32 and float64", "float64 and bfloat16", "bfloat16", "float16", "swapped bytes"],
)
def test_vsepp_takes_any_floating_features(measure: str, kinds: tuple) -> None:
    rng = np.random.default_rng(3)
    images, captions = np.repeat(rng.integers(-8, 9, (6, 5)), 5, axis=0) / 8.0, rng.integers(-8, 9, (30, 5)) / 8.0
    expected = vsepp.t2i(images, captions, measure=measure, return_ranks=True)
    found = vsepp.t2i(kinds[0](images), kinds[1](captions), measure=measure, return_ranks=True)
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize(
    ("value", "kind", "error"),
    [
        (np.ones((10, 4), dtype=np.int64), TypeError, "images: expected a floating dtype .* got int64"),
        ([[1.0], [1.0, 2.0]], ValueError, "images: expected items of one shape"),
    ],
)
def test_vsepp_names_what_it_cannot_read(value: Any, kind: type[Exception], error: str) -> None:
    with pytest.raises(kind, match=error):
        vsepp.i2t(value, np.ones((10, 4)))


@pytest.mark.parametrize(
    ("images", "captions", "options", "error"),
    [
        ((10, 4), (10, 4), {"measure": "dot"}, r"measure: expected one of cosine, order, got 'dot'"),
        ((9, 4), (9, 4), {}, r"images: expected each image 5 times, got 9 rows"),
        ((10, 4), (50, 4), {}, r"captions: expected shape \(10, 4\) \(as images\), got \(50, 4\)"),
        ((10, 4), (10, 4), {"npts": 10}, r"npts: expected None or 2 \(a fifth of the rows of images\), got 10"),
        ((10, 3, 4), (10, 4), {}, r"images: expected shape \(5N, d\), got \(10, 3, 4\)"),
    ],
)
def test_vsepp_refuses(images: tuple, captions: tuple, options: dict, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        vsepp.t2i(np.ones(images), np.ones(captions), **options)
