"""LAPS's functions: scores against its loop written out, padding, zero vectors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from field_written_out import LENGTHS, all_pairs, literal, options, problem

from cmsei_fast import Encoded, PairScorer, pair_score
from cmsei_fast.compat import laps


def test_laps_scores() -> None:
    v, w = problem()
    mean = [options(agg_func="Mean", lambda_softmax=x) for x in (9.0, 4.0)]
    t2i = all_pairs(v, w, lambda v, w: literal(w, v, mean[0]))
    i2t = all_pairs(v, w, lambda v, w: literal(v, w, mean[1]))
    longer = 3 * v, 0.5 * w  # made unit inside
    torch.testing.assert_close(laps.xattn_score_t2i(*longer, LENGTHS), t2i, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(laps.xattn_score_i2t(*longer, LENGTHS), i2t, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(laps.xattn_score_two(*longer, LENGTHS), (t2i + i2t) / 2, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("both", [False, True], ids=["t2i", "both"])
def test_the_mean_of_largest_products_is_a_pair_scorer(both: bool) -> None:
    """``matching_max_mean`` without ``scan`` and ``bi_norm``, as the document puts it together."""
    v, w = (torch.nn.functional.normalize(x, dim=-1) for x in problem())

    def pair(v: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        products = w @ v.T
        words, regions = products.max(1).values.mean(), products.max(0).values.mean()
        return (words + regions) / 2 if both else words

    scorer = PairScorer.maxsim("mean")
    if both:
        half = replace(scorer.t2i, weight=0.5)
        scorer = PairScorer(half, half)
    expected = torch.tensor([[pair(x, y[:n]) for y, n in zip(w, LENGTHS, strict=True)] for x in v], dtype=v.dtype)
    found = pair_score(Encoded.from_padded(v), Encoded.from_padded(w, LENGTHS), scorer=scorer)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["xattn_score_t2i", "xattn_score_i2t", "xattn_score_two"])
def test_laps_does_not_read_the_padding(name: str) -> None:
    """Neither forwards nor backwards, where 0 times the derivative of a NaN made unit would be NaN."""
    v, w = problem()
    for row, n in zip(w, LENGTHS, strict=True):
        row[n:] = torch.nan
    leaves = v.requires_grad_(), w.requires_grad_()
    (regions, words) = torch.autograd.grad(getattr(laps, name)(*leaves, LENGTHS).sum(), leaves)
    assert regions.isfinite().all()
    assert regions.abs().max() > 1e-3
    for row, n in zip(words, LENGTHS, strict=True):
        assert row[:n].isfinite().all()
        assert (row[n:] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_laps_takes_zero_vectors_of_half_the_width(dtype: torch.dtype) -> None:
    v, w = problem()
    v[0, 1], w[1, 2] = 0, 0
    expected = laps.xattn_score_two(v, w, LENGTHS)
    narrow = laps.xattn_score_two(v.to(dtype), w.to(dtype), LENGTHS)
    torch.testing.assert_close(narrow.double(), expected, rtol=0.02, atol=0.02)
