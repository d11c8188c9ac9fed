"""The measures of relation attention on a GPU (see ``gpu_measures.py``)."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.gpu_timing import Rows, Run, ratio
from benchmarks.paired import agree
from benchmarks.relation_graphs import graphs
from cmsei_fast import relation_attention
from cmsei_fast.engines import eager_relation


def graph_inputs(at: Run, kind: str) -> tuple[Tensor, ...]:
    """The operator's arguments on the run's device."""
    problem = graphs(kind, at.sizes.graphs, at.sizes.heads, at.sizes.head_width)
    return tuple(x.to(at.device, at.dtype if x.is_floating_point() else None) for x in problem.arguments)


def attention(at: Run) -> Rows:
    """Relation attention over eager, forward and with its gradients."""
    rows: Rows = {}
    for kind in ("spatial", "semantic"):
        problem = graphs(kind, at.sizes.graphs, at.sizes.heads, at.sizes.head_width)
        inputs = q, k, v, labels, bias, value = graph_inputs(at, kind)
        upstream = problem.upstream.to(at.device, at.dtype)
        leaves = [x.detach().requires_grad_() for x in (q, k, v, bias, value)]

        def forward(engine: str, inputs: tuple[Tensor, ...] = inputs) -> Tensor:
            return relation_attention(*inputs, engine=engine)

        def both(
            engine: str, leaves: list[Tensor] = leaves, labels: Tensor = labels, upstream: Tensor = upstream
        ) -> tuple[Tensor, ...]:
            out = relation_attention(*leaves[:3], labels, *leaves[3:], engine=engine)
            return torch.autograd.grad(out, leaves, upstream)

        agree(kind, forward(at.engine), forward("eager"), 2e-2)
        for found, expected in zip(both(at.engine), both("eager"), strict=True):
            agree(kind, found, expected, 5e-2)
        for name, run in (("forward", forward), ("both", both)):
            ours = at.seconds(lambda run=run: run(at.engine))
            plain = at.other(f"{kind} {name} eager", lambda run=run: at.seconds(lambda: run("eager")))
            rows[f"{kind}_{name}"] = {"seconds": ours, "over_eager": plain / ours}
    return rows


def compiled_attention(at: Run) -> Rows:
    """Relation attention over compiled eager and, without the value table it cannot take, FlexAttention."""
    if at.device.type != "cuda":
        return {}
    rows: Rows = {}
    for kind in ("spatial", "semantic"):
        inputs = graph_inputs(at, kind)
        run = torch.compile(eager_relation.relation_attention)
        theirs = at.other(f"{kind} compiled", lambda run=run, i=inputs: at.attempt(lambda: run(*i)))
        ours = at.seconds(lambda i=inputs: relation_attention(*i, engine=at.engine))
        bare = at.seconds(lambda i=inputs: relation_attention(*i[:5], engine=at.engine))
        flexed = at.other(f"{kind} flex", lambda i=inputs: flex(i[:5], at))
        rows[f"{kind}_forward"] = {"over_compiled": ratio(theirs, ours), "over_flex": ratio(flexed, bare)}
    return rows


def flex(inputs: tuple[Tensor, ...], at: Run) -> float | str:
    """Seconds of FlexAttention with the labels' bias and mask, and no value table."""
    q, k, v, labels, bias = inputs

    def score(logit: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        label = labels[b, i, j]
        return torch.where(label == 0, -float("inf"), logit + bias[label, h])

    def measured() -> float:
        from torch.nn.attention.flex_attention import flex_attention

        run, qkv = torch.compile(flex_attention), (q.contiguous(), k.contiguous(), v.contiguous())
        return at.seconds(lambda: run(*qkv, score_mod=score))

    return at.time_or_reason(measured)
