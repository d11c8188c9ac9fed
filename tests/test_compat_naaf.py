"""NAAF's functions: scores against its loop written out, and what counts its images."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import numpy as np
import pytest
import torch
from field_written_out import LENGTHS, all_pairs, normalised, options, problem
from torch import Tensor

from cmsei_fast.compat import naaf


def naaf_literal(words: Tensor, regions: Tensor, opt: Namespace) -> Tensor:
    s = words @ regions.T
    above = s.amax(1) - opt.thres_safe
    alike = (5 * words @ words.T).softmax(1)
    negative = above * ((alike @ above) < 0)
    kept = s > opt.thres_safe
    weights = torch.where(kept, (opt.lambda_softmax * (s - opt.thres_safe)).exp(), 0)
    attended = (weights / (weights.sum(1, keepdim=True) + 1e-8)) @ regions
    positive = (words * attended).sum(1) / attended.norm(dim=1).clamp(min=1e-8)
    p = (opt.lambda_softmax * normalised(regions @ words.T, "clipped_l2norm")).softmax(0).T
    return (negative + positive + (p * s).sum(1)).mean()


def test_naaf_scores() -> None:
    v, w = problem()
    opt = options(lambda_softmax=20.0, thres_safe=0.35)
    expected = all_pairs(v, w, lambda v, w: naaf_literal(w, v, opt))
    assert (all_pairs(v, w, lambda v, w: (w @ v.T).amax(1).min()) < 0.35).any(), "a mismatched word is wanted"
    torch.testing.assert_close(naaf.xattn_score_test(v, w, LENGTHS, opt), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(naaf.shard_xattn(v.numpy(), w.numpy(), LENGTHS, opt, 40), expected, rtol=1e-4, atol=1e-4)
    left = Namespace(lambda_softmax=np.float32(20), thres_safe=torch.tensor(0.35, dtype=torch.float64))  # by training
    torch.testing.assert_close(naaf.xattn_score_test(v, w, LENGTHS, left), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("images", [None, 4, np.ones(()), torch.ones(())])
def test_images_that_cannot_be_counted(images: Any) -> None:
    with pytest.raises(TypeError, match=r"^images: expected a sequence or an array, got"):
        naaf.t2i(images, np.random.default_rng(0).standard_normal((4, 20)))
