"""Packed rows and their lengths, put together by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cmsei_fast import Encoded, PairScorer, score_matrix
from cmsei_fast.ops import pair_score


@pytest.mark.parametrize("given", [[2, 4], (2, 4), np.array([2, 4], np.int32)], ids=["list", "tuple", "array"])
def test_lengths_of_any_kind(given: Any) -> None:
    rows = torch.randn(6, 4)
    found, expected = Encoded(rows, given), Encoded(rows, torch.tensor([2, 4]))
    assert found.lengths.dtype == torch.int64
    assert found.offsets.tolist() == [0, 2, 6]
    for x, y in zip(found.padded(), expected.padded(), strict=True):
        assert torch.equal(x, y)
    scorer = PairScorer.scan_t2i()
    scores = pair_score(found, found, scorer=scorer)
    assert torch.equal(scores, pair_score(expected, expected, scorer=scorer))
    assert torch.equal(scores, score_matrix(found, found, scorer=scorer))


@pytest.mark.parametrize("given", [[2.5, 4], None, "24", np.ones(2)], ids=["floats", "none", "text", "array"])
def test_lengths_that_are_no_integers(given: Any) -> None:
    with pytest.raises(TypeError, match=r"^lengths: expected "):
        Encoded(torch.randn(6, 4), given)


@pytest.mark.parametrize(
    ("items", "expected"),
    {
        "one": (1, [1]),
        "negative": (-1, [3]),
        "slice": (slice(1, 3), [1, 2]),
        "backwards": (slice(None, None, -2), [3, 1]),
        "list": ([3, 0, -4], [3, 0, 0]),
        "array": (np.array([2, 1], np.uint8), [2, 1]),
        "tensor": (torch.tensor([2, 2]), [2, 2]),
        "mask": (np.array([True, False, False, True]), [0, 3]),
        "mask of torch": (torch.tensor([False, True, False, False]), [1]),
        "empty list": ([], []),
        "empty slice": (slice(4, None), []),
    }.values(),
)
def test_some_of_the_items(items: Any, expected: list[int]) -> None:
    rows = torch.randn(10, 4, requires_grad=True)
    encoded = Encoded(rows, [2, 4, 1, 3])
    found = encoded[items]
    assert found.lengths.tolist() == [[2, 4, 1, 3][i] for i in expected]
    parts = [rows[[0, 2, 6, 7][i] : [2, 6, 7, 10][i]] for i in expected]
    assert torch.equal(found.rows, torch.cat([*parts, rows[:0]]))
    (gradient,) = torch.autograd.grad(found.rows.sum(), rows)
    counts = torch.tensor([expected.count(i) for i in range(4)]).repeat_interleave(encoded.lengths)
    assert torch.equal(gradient, counts[:, None].expand(10, 4).float())


def test_items_one_by_one() -> None:
    encoded = Encoded(torch.randn(6, 4), [2, 4])
    assert [len(item.rows) for item in encoded] == [2, 4]
    assert torch.equal(Encoded.cat(list(encoded)).rows, encoded.rows)


@pytest.mark.parametrize(
    ("items", "error", "told"),
    [
        (2, IndexError, "items: expected indices >= -2 and < 2, got 2"),
        ([0, -3], IndexError, "items: expected indices >= -2 and < 2, got -3"),
        ([True], IndexError, "items: expected a mask of 2 items, got one of 1"),
        (1.0, TypeError, "items: expected an integer, a slice, or indices or a mask in one dimension, got float64"),
        (
            [[0], [1]],
            TypeError,
            "items: expected an integer, a slice, or indices or a mask in one dimension, got int64",
        ),
        (None, TypeError, "items: expected an integer, a slice, or indices or a mask in one dimension, got NoneType"),
        ("a", TypeError, "items: expected an integer, a slice, or indices or a mask in one dimension, got <U1"),
        (True, TypeError, "items: expected an integer, a slice, or indices or a mask in one dimension, got bool"),
    ],
)
def test_items_that_are_not_there(items: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=f"^{told}"):
        Encoded(torch.randn(6, 4), [2, 4])[items]
