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
