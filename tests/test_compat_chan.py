"""CHAN's functions: scores against its loop written out, options and lengths."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import numpy as np
import pytest
import torch
from field_written_out import LENGTHS, problem
from torch import Tensor

from cmsei_fast.compat import chan

REGIONS = [5, 3, 4]


def chan_literal(regions: Tensor, words: Tensor, coding: str, pooling: str, opt: Namespace) -> Tensor:
    s = regions @ words.T
    if coding == "VSACoding":
        attended = (s / opt.alpha).softmax(1) @ words
        r = (regions * attended).sum(1) / (attended.norm(dim=1) + 1e-8)
    else:
        r = s.amax(0) if coding == "VHACoding" else s.amax(1)
    if pooling == "LSEPooling":
        return (r / opt.belta).logsumexp(0)
    return {"MeanPooling": r.mean(), "MaxPooling": r.max(), "SumPooling": r.sum()}[pooling]


@pytest.mark.parametrize("coding", ["VHACoding", "THACoding", "VSACoding"])
@pytest.mark.parametrize("pooling", ["LSEPooling", "MeanPooling", "MaxPooling", "SumPooling"])
def test_chan_scores(coding: str, pooling: str) -> None:
    v, w = problem()
    opt = Namespace(coding_type=coding, pooling_type=pooling, alpha=0.2, belta=0.1)
    expected = torch.stack(
        [
            torch.stack([chan_literal(x[:r], y[:n], coding, pooling, opt) for y, n in zip(w, LENGTHS, strict=True)])
            for x, r in zip(v, REGIONS, strict=True)
        ]
    )
    encoder = chan.SimsEncoder(coding, pooling, opt=opt)
    images = v.clone().requires_grad_()
    found = encoder(images, w, torch.Tensor(REGIONS), torch.Tensor(LENGTHS))  # floating, as its forward_sim has them
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)
    found.sum().backward()
    assert images.grad is not None
    assert images.grad[0].abs().max() > 0.01
    assert not images.grad[1, REGIONS[1] :].any()
    model = Namespace(opt=opt)  # its Model keeps the options
    for lengths in (REGIONS, torch.Tensor(REGIONS), np.repeat(REGIONS, 5).tolist()):  # the last as evalrank has them
        sims = chan.compute_sims(v.numpy(), w.numpy(), lengths, LENGTHS, model)
        np.testing.assert_allclose(sims, expected, rtol=2e-6, atol=2e-5)
    with pytest.raises(TypeError, match="cap_lens: expected whole numbers, got float64"):
        chan.compute_sims(v.numpy(), w.numpy(), REGIONS, [0.5] * 4, opt)
    with pytest.raises(TypeError, match="img_lens: expected whole numbers, got None"):
        chan.compute_sims(v.numpy(), w.numpy(), None, LENGTHS, opt)
    with pytest.raises(ValueError, match=r"img_lens\[0\]: expected a length from 1 to 5, got 6"):
        chan.compute_sims(v.numpy(), w.numpy(), [6, 3, 4], LENGTHS, opt)
    with pytest.raises(ValueError, match=r"pooling_type: expected one of LSEPooling, .*, got 'SoftmaxPooling'"):
        chan.SimsEncoder(coding, "SoftmaxPooling", opt=opt)


@pytest.mark.parametrize("value", [0, 0.0, -1.0, float("nan"), float("inf"), 5e-324, None, "0.1", [], True])
def test_chan_divides_by_numbers_alone(value: Any) -> None:
    for name in ("alpha", "belta"):
        opt = Namespace(**{"alpha": 0.1, "belta": 0.1, name: value})
        with pytest.raises(ValueError, match=rf"^opt\.{name}: expected a finite number > 0, got"):
            chan.SimsEncoder("VSACoding", "LSEPooling", opt=opt)


@pytest.mark.parametrize(
    ("lengths", "error", "told"),
    [
        (None, TypeError, "expected whole numbers, got None"),
        ([1, float("inf"), 2, 2], TypeError, "expected whole numbers, got float64"),
        ([1, float("nan"), 2, 2], TypeError, "expected whole numbers, got float64"),
        ([1, [2, 3], 2, 2], ValueError, "expected whole numbers, got a ragged list"),
        (3, ValueError, r"expected one dimension, got shape \(\)"),
        (torch.ones(4, device="meta"), ValueError, "expected a tensor that holds data"),
    ],
)
def test_chan_s_lengths_that_are_none(lengths: Any, error: type[Exception], told: str) -> None:
    v, w = problem()
    opt = Namespace(coding_type="VHACoding", pooling_type="MeanPooling")
    with pytest.raises(error, match=f"^cap_lens: {told}"):
        chan.SimsEncoder("VHACoding", "MeanPooling", opt=opt)(v, w, [5] * 3, lengths)
    with pytest.raises(error, match=f"^img_lens: {told}"):
        chan.compute_sims(v, w, lengths, LENGTHS, opt)


def test_chan_s_arguments_go_by_its_own_names() -> None:
    v, w = problem()
    opt = Namespace(coding_type="VHACoding", pooling_type="MeanPooling")
    few, many = [99] * len(v), [99] * len(w)
    for name, given in (
        ("img_embs", (v[0], w, few, LENGTHS)),
        ("cap_embs", (v, w[0], few, LENGTHS)),
        ("cap_embs", (v, w[..., 1:], [1] * len(v), LENGTHS)),
        (r"img_lens\[0\]", (v, w, few, LENGTHS)),
        (r"cap_lens\[0\]", (v, w, [1] * len(v), many)),
    ):
        with pytest.raises(ValueError, match=f"^{name}: expected "):
            chan.compute_sims(*given, opt)
    encoder = chan.SimsEncoder("VHACoding", "MeanPooling", opt=opt)
    for name, images, captions in (("img_emb", v[0], w), ("cap_emb", v, w[0]), ("cap_emb", v, w[..., 1:])):
        with pytest.raises(ValueError, match=f"^{name}: expected "):
            encoder(images, captions, [1] * len(v), LENGTHS)


def test_chan_s_lengths_in_bfloat16() -> None:
    v, w = problem()
    encoder = chan.SimsEncoder("VHACoding", "MeanPooling", opt=Namespace())
    lengths = torch.tensor([5.0, 3.0, 1.0])
    expected = encoder(v, w, lengths, torch.tensor(LENGTHS))
    assert torch.equal(encoder(v, w, lengths.bfloat16(), torch.tensor(LENGTHS).bfloat16()), expected)


def test_chan_s_model_may_be_wrapped() -> None:
    """By ``DataParallel``, which lacks the ``opt`` of what is in it; an option named ``module`` is no model."""
    v, w = problem()
    model = torch.nn.Module()
    model.opt = opt = Namespace(coding_type="VHACoding", pooling_type="LSEPooling", belta=0.1)  # type: ignore[assignment]
    given = v.numpy(), w.numpy(), [5, 5, 5], LENGTHS
    expected = chan.compute_sims(*given, model)
    for same in (torch.nn.DataParallel(model), Namespace(**vars(opt), module="SAF")):
        np.testing.assert_array_equal(chan.compute_sims(*given, same), expected)
