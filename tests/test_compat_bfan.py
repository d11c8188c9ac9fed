"""BFAN's functions: scores against its loop written out."""

from __future__ import annotations

from argparse import Namespace

import numpy as np
import pytest
import torch
from field_written_out import LENGTHS, all_pairs, normalised, options, problem
from torch import Tensor

from cmsei_fast.compat import bfan
from cmsei_fast.engines.terms import FOCAL_SLACK


def bfan_literal(queries: Tensor, context: Tensor, opt: Namespace) -> Tensor:
    p = (opt.lambda_softmax * normalised(context @ queries.T, "clipped_l2norm")).softmax(0).T  # (queries, context)
    g = torch.ones_like(p) if opt.focal_type == "equal" else p.sqrt()
    others = (p * g).sum(1, keepdim=True)
    kept = p * g.sum(1, keepdim=True) - others > -FOCAL_SLACK * others  # equal ones are all kept, however rounded
    attended = (p * kept / (p * kept).sum(1, keepdim=True)) @ context
    return ((queries * attended).sum(1) / (queries.norm(dim=1) * attended.norm(dim=1))).mean()


@pytest.mark.parametrize("focal", ["equal", "prob"])
def test_bfan_scores(focal: str) -> None:
    v, w = problem()
    opt = options(focal_type=focal, lambda_softmax=20.0)
    expected = all_pairs(v, w, lambda v, w: bfan_literal(w, v, opt) + bfan_literal(v, w, opt))
    torch.testing.assert_close(bfan.xattn_score(v, w, LENGTHS, opt), expected, rtol=1e-8, atol=1e-8)
    found = bfan.shard_xattn(v.numpy(), w.numpy(), LENGTHS, opt)
    np.testing.assert_allclose(found, expected, rtol=5e-5, atol=5e-5)
