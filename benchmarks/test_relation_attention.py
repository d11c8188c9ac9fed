"""Relation attention, forward and with its gradients: native against eager and torch.compile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.paired import agree, alternate
from benchmarks.relation_graphs import KINDS, Graphs, graphs
from benchmarks.report import Report
from benchmarks.settings import QUICK, SIZES
from cmsei_fast import relation_attention
from cmsei_fast.engines import eager_relation

SHAPE = (SIZES.graphs, SIZES.heads, SIZES.head_width)


def forward(problem: Graphs, engine: str) -> tuple[Tensor, ...]:
    with torch.no_grad():
        q, k, v, labels, bias, value = problem.arguments
        return (relation_attention(q, k, v, labels, bias, value, engine=engine),)


def both(problem: Graphs, engine: str) -> tuple[Tensor, ...]:
    """The output and the gradients of q, k, v, bias and value."""
    q, k, v, labels, bias, value = problem.arguments
    q, k, v, bias, value = leaves = [x.detach().requires_grad_() for x in (q, k, v, bias, value)]
    out = relation_attention(q, k, v, labels, bias, value, engine=engine)
    return out, *torch.autograd.grad(out, leaves, problem.upstream)


PASSES = {"forward": forward, "both": both}


@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize("kind", KINDS)
def test_over_eager(benchmark: Any, report: Report, kind: str, passes: str) -> None:
    run, key = PASSES[passes], f"relation_{kind}_{passes}"
    small = graphs(kind, 3, 2, 16)
    for actual, expected in zip(run(small, "native"), run(small, "eager"), strict=True):
        agree(key, actual, expected, 1e-4)
    problem = graphs(kind, *SHAPE)
    paired = alternate(benchmark, lambda: run(problem, "native"), lambda: run(problem, "eager"))
    report.add(key, paired.speedups, paired, graphs=SIZES.graphs, heads=SIZES.heads)
    report.judge(key)


def test_over_compiled_eager(benchmark: Any, report: Report) -> None:
    if QUICK:
        pytest.skip("torch.compile takes longer than a quick run may")
    problem = graphs("spatial", *SHAPE)
    compiled = torch.compile(eager_relation.relation_attention)

    def other() -> Tensor:
        with torch.no_grad():
            return compiled(*problem.arguments)

    try:
        expected = other()
    except Exception as error:  # the compiler's own errors have no common type
        report.unmeasured("relation_compiled", f"torch.compile failed here ({type(error).__name__})")
        pytest.skip(f"torch.compile failed here: {error}")
    agree("relation_compiled", forward(problem, "native")[0], expected, 1e-4)
    paired = alternate(benchmark, lambda: forward(problem, "native"), other)
    report.add("relation_compiled", paired.speedups, paired, graphs=SIZES.graphs, heads=SIZES.heads)
    report.judge("relation_compiled")
