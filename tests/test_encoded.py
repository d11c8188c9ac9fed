"""Packed rows and their lengths, put together by hand, from padded items or from a mask."""

from __future__ import annotations

import re
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


def test_another_dtype_and_device() -> None:
    rows = torch.randn(6, 4, requires_grad=True)
    encoded = Encoded(rows, [2, 4])
    half = encoded.to(torch.float16)
    assert half.rows.dtype == torch.float16
    assert torch.equal(half.rows, rows.half())
    assert half.lengths is encoded.lengths
    (gradient,) = torch.autograd.grad(half.rows.float().sum(), rows)
    assert torch.equal(gradient, torch.ones(6, 4))
    elsewhere = encoded.to("meta", dtype=torch.float64)
    assert (elsewhere.rows.device.type, elsewhere.rows.dtype) == ("meta", torch.float64)
    assert elsewhere.lengths.device.type == "cpu"
    assert encoded.to(torch.float32).rows is rows


def test_outside_the_graph() -> None:
    encoded = Encoded(torch.randn(6, 4, requires_grad=True) * 2, [2, 4])
    kept = encoded.detach()
    assert not kept.rows.requires_grad
    assert kept.rows.data_ptr() == encoded.rows.data_ptr()
    assert kept.lengths is encoded.lengths


def test_items_one_by_one() -> None:
    encoded = Encoded(torch.randn(6, 4), [2, 4])
    assert [len(item.rows) for item in encoded] == [2, 4]
    assert torch.equal(Encoded.cat(list(encoded)).rows, encoded.rows)
    assert Encoded.cat(item for item in encoded).lengths.tolist() == [2, 4]


@pytest.mark.parametrize(
    ("parts", "error", "told"),
    [
        ([], ValueError, "parts: expected at least one Encoded, got none"),
        ([Encoded(torch.ones(2, 4), [2]), torch.ones(2, 4)], TypeError, "parts[1]: expected an Encoded, got Tensor"),
        (
            [Encoded(torch.ones(2, 4), [2]), Encoded(torch.ones(2, 3), [2])],
            ValueError,
            "parts[1]: expected rows of width 4 (as parts[0]), got 3",
        ),
    ],
    ids=["none", "rows", "width"],
)
def test_parts_that_are_refused(parts: list[Any], error: type[Exception], told: str) -> None:
    with pytest.raises(error) as caught:
        Encoded.cat(parts)
    assert str(caught.value) == told


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


def test_padded_items_become_packed_ones_with_their_gradient() -> None:
    torch.manual_seed(0)
    padded = torch.randn(3, 5, 4, requires_grad=True)
    for lengths in ([2, 4, 1], torch.tensor([2, 4, 1])):
        encoded = Encoded.from_padded(padded, lengths)
        assert torch.equal(encoded.rows, torch.cat([padded[0, :2], padded[1, :4], padded[2, :1]]))
        assert encoded.offsets.tolist() == [0, 2, 6, 7]
    (grad,) = torch.autograd.grad(encoded.rows.sum(), padded)
    assert grad.sum((1, 2)).tolist() == [8.0, 16.0, 4.0]
    whole = Encoded.from_padded(padded)
    assert torch.equal(whole.rows, padded.flatten(0, 1))
    assert whole.offsets.tolist() == [0, 5, 10, 15]
    without_data = Encoded.from_padded(padded.to("meta"), [2, 4, 1])
    assert (without_data.rows.device.type, without_data.rows.shape) == ("meta", (7, 4))
    assert without_data.offsets.tolist() == [0, 2, 6, 7]
    with pytest.raises(ValueError, match=r"^lengths\[1\]: expected a length from 1 to 5, got 6$"):
        Encoded.from_padded(padded, [2, 6, 1])
    with pytest.raises(ValueError, match=r"^regions: expected 2 dimensions .*Encoded\.from_padded packs padded items$"):
        pair_score(padded, encoded.rows, whole.offsets, encoded.offsets, scorer=PairScorer.scan_t2i())


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, np.int8], ids=str)
def test_a_mask_keeps_rows_wherever_they_are_with_their_gradient(kind: Any) -> None:
    torch.manual_seed(0)
    padded = torch.randn(3, 5, 4, requires_grad=True)
    places = [[1, 1, 0, 0, 0], [0, 1, 0, 1, 1], [0, 0, 0, 0, 1]]  # on the right, with a gap, on the left
    mask = torch.tensor(places).to(kind) if isinstance(kind, torch.dtype) else np.array(places, dtype=kind)
    encoded = Encoded.from_mask(padded, mask)
    assert torch.equal(encoded.rows, torch.cat([padded[0, :2], padded[1, [1, 3, 4]], padded[2, 4:]]))
    assert encoded.offsets.tolist() == [0, 2, 5, 6]
    (grad,) = torch.autograd.grad(encoded.rows.sum(), padded)
    assert torch.equal(grad[..., 0], torch.tensor(places, dtype=torch.float32))
    without_data = Encoded.from_mask(padded.to("meta"), mask)
    assert (without_data.rows.device.type, without_data.rows.shape) == ("meta", (6, 4))


WRONG_MASKS = {
    "list": ([[1]], TypeError, "mask: expected a tensor or an array of bool or of integers 0 and 1, got list"),
    "floats": (
        torch.ones(2, 3),
        TypeError,
        "mask: expected bool or integers 0 and 1, got float32; mask > 0 is one of bool",
    ),
    "float_array": (
        np.zeros((2, 3)),
        TypeError,
        "mask: expected bool or integers 0 and 1, got float64; mask > 0 is one of bool",
    ),
    "added": (torch.full((2, 3), -1e4), TypeError, "mask: expected bool or integers 0 and 1, got float32"),
    "lengths": (torch.tensor([3, 1]), ValueError, "mask: expected shape (2, 3) (items, rows of features), got (2,)"),
    "tokens": (torch.tensor([[1, 0, 1], [1, 101, 2]]), ValueError, "mask[1, 1]: expected 0 or 1, got 101"),
    "nothing": (torch.eye(2, 3) > 2, ValueError, "mask[0]: expected at least one row that is kept, got none"),
    "meta": (
        torch.ones(2, 3, dtype=torch.bool, device="meta"),
        ValueError,
        "mask: expected a tensor that holds data, got one on the meta device",
    ),
}


@pytest.mark.parametrize("name", WRONG_MASKS)
def test_masks_that_do_not_fit(name: str) -> None:
    mask, kind, message = WRONG_MASKS[name]
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        Encoded.from_mask(torch.randn(2, 3, 4), mask)


def test_a_mask_in_place_of_lengths_is_told_as_one() -> None:
    with pytest.raises(ValueError, match=r"got shape \(2, 3\); cmsei_fast\.Encoded\.from_mask takes a mask$"):
        Encoded.from_padded(torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.bool))
