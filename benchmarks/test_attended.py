"""Evaluation with SGRAF: its module on attended_scores against the field's loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import field
from benchmarks.captions import Features, features
from benchmarks.paired import agree, alternate
from benchmarks.report import Report
from benchmarks.settings import REGIONS, SIZES
from cmsei_fast.compat.sgraf import EncoderSimilarity

VECTOR = 256
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}
# Of a similarity from 0 to 1.
TOLERANCES = {"fp32": 1e-5, "bf16": 5e-3}


def encoder(module: str, width: int, dtype: str) -> EncoderSimilarity:
    """Its first weights, from a seed, and batch norms that do something."""
    torch.manual_seed(0)
    model = EncoderSimilarity(width, VECTOR, module, num_region=REGIONS, precision=PRECISIONS[dtype]).eval()
    for x in model.modules():
        if isinstance(x, torch.nn.BatchNorm1d):
            x.running_mean.uniform_(-0.5, 0.5)
            x.running_var.uniform_(0.5, 2.0)
    return model


@torch.no_grad()
def ours(model: EncoderSimilarity, data: Features, padded: Tensor) -> Tensor:
    return model(data.images, padded, data.lengths)


@torch.no_grad()
def literal(model: EncoderSimilarity, data: Features, padded: Tensor) -> Tensor:
    return field.sgraf(data.images, padded, data.lengths.tolist(), model)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("module", ["SAF", "SGR"])
def test_sgraf_over_the_field(benchmark: Any, report: Report, module: str, dtype: str) -> None:
    key = f"sgraf_{module.lower()}_{dtype}"
    small, model = features(5, 7, 64), encoder(module, 64, dtype)
    expected = literal(model, small, small.padded())
    agree(key, ours(model, small, small.padded()), expected, TOLERANCES[dtype])
    data, model = features(SIZES.images, SIZES.slow_captions, SIZES.width), encoder(module, SIZES.width, dtype)
    padded = data.padded()
    # In bf16 the field's code has everything in it; ours keeps the features in fp32 and rounds what the weights meet.
    other = data.to(torch.bfloat16 if dtype == "bf16" else torch.float32)
    whole, rows = encoder(module, SIZES.width, dtype).to(other.images.dtype), other.padded()
    paired = alternate(benchmark, lambda: ours(model, data, padded), lambda: literal(whole, other, rows))
    words = len(data.words) * len(data.images)
    each = {"microseconds": 1e6 * min(paired.ours) / words, "other_microseconds": 1e6 * min(paired.other) / words}
    report.add(key, paired.speedups, paired, pairs=data.pairs, width=SIZES.width, **each)
    report.judge(key)
