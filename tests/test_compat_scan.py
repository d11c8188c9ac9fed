"""SCAN's functions: scores and gradients against its loop written out, a training step, options."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import numpy as np
import pytest
import torch
from field_written_out import LENGTHS, all_pairs, literal, options, problem
from torch.nn.functional import normalize

from cmsei_fast.compat import bfan, scan

NORMS = ("softmax", "l2norm", "clipped_l2norm", "l1norm", "clipped_l1norm", "clipped", "no_norm")
AGGREGATES = ("LogSumExp", "Max", "Sum", "Mean")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_scan_scores(norm: str, aggregate: str) -> None:
    v, w = problem()
    opt = options(raw_feature_norm=norm, agg_func=aggregate, lambda_softmax=4.0, lambda_lse=5.0)
    t2i = all_pairs(v, w, lambda v, w: literal(w, v, opt))
    i2t = all_pairs(v, w, lambda v, w: literal(v, w, opt))
    torch.testing.assert_close(scan.xattn_score_t2i(v, w, LENGTHS, opt), t2i, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(scan.xattn_score_i2t(v, w, torch.tensor(LENGTHS), opt), i2t, rtol=1e-9, atol=1e-9)
    arrays = v.numpy(), w.numpy()
    for shard, expected in ((scan.shard_xattn_t2i, t2i), (scan.shard_xattn_i2t, i2t)):
        found = shard(*arrays, LENGTHS, opt, shard_size=2)
        assert (found.dtype, found.shape) == (np.float64, (3, 4))
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def test_gradients_are_those_of_the_loop() -> None:
    opt = options()
    grads = []
    for form in (
        lambda v, w: scan.xattn_score_t2i(v, w, LENGTHS, opt),
        lambda v, w: all_pairs(v, w, lambda v, w: literal(w, v, opt)),
    ):
        v, w = (x.requires_grad_() for x in problem())
        (form(v, w) * torch.arange(12.0).view(3, 4)).sum().backward()
        grads.append((v.grad, w.grad))
    for actual, expected in zip(*grads, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-10)
        assert expected.abs().max() > 0.1


def test_a_training_step_of_scan() -> None:
    """The whole of SCAN's hinge over encoders: weights move and the loss falls."""
    torch.manual_seed(0)
    encoder = torch.nn.Linear(8, 8)
    v, w = problem(4, dtype=torch.float32)
    losses = []
    optimiser = torch.optim.Adam(encoder.parameters(), 0.01)
    for _ in range(8):
        scores = scan.xattn_score_i2t(normalize(encoder(v), dim=-1), w, LENGTHS, options(agg_func="Mean"))
        match = scores.diag()[:, None]
        cost = (0.2 + scores - match).clamp(min=0) + (0.2 + scores - match.T).clamp(min=0)
        loss = cost.masked_fill(torch.eye(4).bool(), 0).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("images", [1, 3])
def test_one_image_and_one_caption_keep_both_dimensions(images: int) -> None:
    v, w = problem(images)
    assert scan.xattn_score_t2i(v, w[:1], [1], options()).shape == (images, 1)
    assert bfan.xattn_score(v, w[:1], [1], options()).isfinite().all()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"raw_feature_norm": "none"}, "opt.raw_feature_norm: expected one of no_norm, softmax"),
        ({"agg_func": "lse"}, "opt.agg_func: expected one of LogSumExp, Max, Sum, Mean, got 'lse'"),
        ({"lambda_softmax": -1.0}, r"^opt\.lambda_softmax: expected a finite number > 0, got -1.0"),
    ],
)
def test_options_without_a_counterpart(changes: dict, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        scan.xattn_score_t2i(*problem(), LENGTHS, options(**changes))


def test_missing_options_and_wrong_arguments() -> None:
    v, w = problem()
    with pytest.raises(AttributeError, match="opt: expected a namespace with agg_func"):
        scan.xattn_score_t2i(v, w, LENGTHS, Namespace(raw_feature_norm="clipped"))
    of_mean = {"raw_feature_norm": "clipped", "agg_func": "Mean", "lambda_softmax": 4}
    found = scan.xattn_score_t2i(v, w, LENGTHS, Namespace(**of_mean))
    assert scan.xattn_score_t2i(v, w, LENGTHS, of_mean).equal(found)  # options from a settings file
    with pytest.raises(ValueError, match=r"opt\.focal_type: expected one of equal, prob, got 'both'"):
        bfan.xattn_score(v, w, LENGTHS, options(focal_type="both"))
    with pytest.raises(TypeError, match="images: expected a tensor, got ndarray"):
        scan.xattn_score_t2i(v.numpy(), w, LENGTHS, options())
    with pytest.raises(ValueError, match="images: expected 3 dimensions"):
        scan.xattn_score_t2i(v[0], w, LENGTHS, options())
    with pytest.raises(ValueError, match=r"cap_lens\[1\]: expected a length from 1 to 8, got 9"):
        scan.xattn_score_t2i(v, w, [1, 9, 2, 2], options())
    with pytest.raises(TypeError, match="cap_lens"):
        scan.xattn_score_t2i(v, w, None, options())
    with pytest.raises(ValueError, match=r"^captions: expected items of one shape .*, got a list of items of unlike"):
        scan.shard_xattn_t2i(v.numpy(), [x[:n] for x, n in zip(w.numpy(), LENGTHS, strict=True)], LENGTHS, options())
    with pytest.raises(ValueError, match=r"^caplens\[1\]: expected a length from 1 to 8, got 9$"):
        scan.shard_xattn_t2i(v.numpy(), w.numpy(), [1, 9, 2, 2], options())
    with pytest.raises(TypeError, match=r"^caplens: expected the number of words of each caption, got None$"):
        scan.shard_xattn_t2i(v.numpy(), w.numpy(), None, options())
    with pytest.raises(ValueError, match=r"^device: expected an available device .*, got 'cuda:99'$"):
        scan.shard_xattn_t2i(v.numpy(), w.numpy(), LENGTHS, options(), device="cuda:99")


@pytest.mark.parametrize("value", [[], {}, np.zeros(2), 3])
def test_options_that_are_no_names(value: Any) -> None:
    with pytest.raises(ValueError, match=r"opt\.raw_feature_norm: expected one of no_norm, softmax"):
        scan.xattn_score_t2i(*problem(), LENGTHS, options(raw_feature_norm=value))
