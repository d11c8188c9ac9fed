"""The measures of relation attention on a GPU (see ``gpu_measures.py``)."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.gpu_timing import Rows, Run, ratio
from benchmarks.paired import agree
from benchmarks.relation_graphs import graphs
from cmsei_fast import relation_attention
from cmsei_fast.engines import eager_relation


def graph_inputs(bench: Run, kind: str) -> tuple[Tensor, ...]:
    """The operator's arguments on the run's device."""
    problem = graphs(kind, bench.sizes.graphs, bench.sizes.heads, bench.sizes.head_width)
    return tuple(x.to(bench.device, bench.dtype if x.is_floating_point() else None) for x in problem.arguments)


def attention(bench: Run) -> Rows:
    """Relation attention over eager, forward and with its gradients."""
    rows: Rows = {}
    for kind in ("spatial", "semantic"):
        problem = graphs(kind, bench.sizes.graphs, bench.sizes.heads, bench.sizes.head_width)
        inputs = q, k, v, labels, bias, value = graph_inputs(bench, kind)
        upstream = problem.upstream.to(bench.device, bench.dtype)
        leaves = [x.detach().requires_grad_() for x in (q, k, v, bias, value)]

        def forward(engine: str, inputs: tuple[Tensor, ...] = inputs) -> Tensor:
            return relation_attention(*inputs, engine=engine)

        def both(
            engine: str, leaves: list[Tensor] = leaves, labels: Tensor = labels, upstream: Tensor = upstream
        ) -> tuple[Tensor, ...]:
            out = relation_attention(*leaves[:3], labels, *leaves[3:], engine=engine)
            return torch.autograd.grad(out, leaves, upstream)

        agree(kind, forward(bench.engine), forward("eager"), 2e-2)
        for actual, expected in zip(both(bench.engine), both("eager"), strict=True):
            agree(kind, actual, expected, 5e-2)
        for name, call in (("forward", forward), ("both", both)):
            seconds = bench.seconds(lambda call=call: call(bench.engine))
            eager_seconds = bench.other(f"{kind} {name} eager", lambda call=call: bench.seconds(lambda: call("eager")))
            rows[f"{kind}_{name}"] = {"seconds": seconds, "over_eager": eager_seconds / seconds}
    return rows


def compiled_attention(bench: Run) -> Rows:
    """Relation attention over compiled eager and, without the value table it cannot take, FlexAttention."""
    if bench.device.type != "cuda":
        return {}
    rows: Rows = {}
    for kind in ("spatial", "semantic"):
        inputs = graph_inputs(bench, kind)
        compiled_eager = torch.compile(eager_relation.relation_attention)
        compiled_seconds = bench.other(
            f"{kind} compiled",
            lambda compiled_eager=compiled_eager, inputs=inputs: bench.attempt(lambda: compiled_eager(*inputs)),
        )
        seconds = bench.seconds(lambda inputs=inputs: relation_attention(*inputs, engine=bench.engine))
        seconds_without_values = bench.seconds(
            lambda inputs=inputs: relation_attention(*inputs[:5], engine=bench.engine)
        )
        flex_seconds = bench.other(f"{kind} flex", lambda inputs=inputs: flex(inputs[:5], bench))
        rows[f"{kind}_forward"] = {
            "over_compiled": ratio(compiled_seconds, seconds),
            "over_flex": ratio(flex_seconds, seconds_without_values),
        }
    return rows


def flex(inputs: tuple[Tensor, ...], bench: Run) -> float | str:
    """Seconds of FlexAttention with the labels' bias and mask, and no value table."""
    q, k, v, labels, bias = inputs

    def score(logit: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        label = labels[b, i, j]
        return torch.where(label == 0, -float("inf"), logit + bias[label, h])

    def measured() -> float:
        from torch.nn.attention.flex_attention import flex_attention

        compiled_flex, qkv = torch.compile(flex_attention), (q.contiguous(), k.contiguous(), v.contiguous())
        return bench.seconds(lambda: compiled_flex(*qkv, score_mod=score))

    return bench.time_or_reason(measured)
