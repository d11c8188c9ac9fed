"""What is measured on a GPU (``gpu.py``): scoring, a training step, relation attention, scale, and numerics.

Every function takes the device and the sizes and returns rows {key: {…}}; seconds are medians: of events on a GPU, of
the clock in Triton's interpreter, where they say nothing but that every line runs.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import field
from benchmarks.captions import Features, features
from benchmarks.paired import agree
from benchmarks.relations import graphs
from cmsei_fast import PairScorer, pair_score, relation_attention, score_matrix
from cmsei_fast.engines import eager, gram, relations, triton_design

Rows = dict[str, dict[str, Any]]
SCORERS = {"scan": (PairScorer.scan_t2i(), field.scan_t2i), "cmsei": (PairScorer.cmsei(), field.cmsei)}


@dataclass(frozen=True)
class GpuSizes:
    """Images × captions of scoring, of the part that slow forms score, of a batch and of the largest run."""

    width: int
    score: tuple[int, int]
    part: tuple[int, int]
    batch: int
    graphs: int
    heads: int
    head_width: int
    scale: tuple[int, int]
    rounds: int


FULL = GpuSizes(1024, (5000, 25000), (128, 128), 256, 128, 8, 128, (10000, 50000), 7)
SMALL = GpuSizes(16, (3, 4), (2, 2), 2, 1, 1, 8, (4, 5), 1)


def to(given: Features, device: torch.device, dtype: torch.dtype) -> Features:
    """The same features elsewhere."""
    return Features(given.images.to(device, dtype), given.words.to(device, dtype), given.lengths)


def seconds(run: Callable[[], Any], device: torch.device, rounds: int) -> float:
    """Median time of a call after one that does not count."""
    run()
    found = []
    for _ in range(rounds):
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            run()
            end.record()
            end.synchronize()
            found.append(begin.elapsed_time(end) / 1e3)
        else:
            start = time.perf_counter()
            run()
            found.append(time.perf_counter() - start)
    return statistics.median(found)


def peak(run: Callable[[], Any], device: torch.device) -> int:
    """Most bytes allocated during a call beyond those before it; 0 where the device does not count them."""
    if device.type != "cuda":
        run()
        return 0
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def attempt(run: Callable[[], Any], device: torch.device, rounds: int) -> float | str:
    """Seconds of something that need not work here (a compiler, too little memory), or why it did not."""
    try:
        return seconds(run, device, rounds)
    except Exception as error:  # a compiler's own errors have no common type
        return f"{type(error).__name__}: {str(error)[:120]}"


def ratio(other: float | str, ours: float) -> float | str:
    """How many times faster ours is."""
    return other if isinstance(other, str) else other / ours


def product_seconds(given: Features, device: torch.device, rounds: int) -> float:
    """The library's product of the packed words and regions, in blocks that are not kept."""
    words = given.words.split(16384)

    def run() -> None:
        for block in words:
            for regions in given.regions.split(16384):
                torch.mm(block, regions.T)

    return seconds(run, device, rounds)


def scoring(device: torch.device, sizes: GpuSizes, dtype: torch.dtype) -> Rows:
    """(a): all pairs, over the bare product; over the literal form and compiled eager on a part of them."""
    given = to(features(*sizes.score, sizes.width), device, dtype)
    part = given.first(*sizes.part)
    product = product_seconds(given, device, sizes.rounds)
    rows: Rows = {}
    for name, (scorer, form) in SCORERS.items():

        def score(which: Features, engine: str, scorer: PairScorer = scorer) -> Tensor:
            return score_matrix(which.images, which.words, which.lengths, scorer=scorer, engine=engine)

        agree(name, score(part, "triton"), score(part, "eager"), 5e-3)
        ours = seconds(lambda score=score: score(given, "triton"), device, sizes.rounds)
        small = seconds(lambda score=score: score(part, "triton"), device, sizes.rounds)
        padded, lengths = part.padded(), part.lengths.tolist()
        with torch.no_grad():
            literal = attempt(lambda form=form: form(part.images, padded, lengths), device, sizes.rounds)  # noqa: B023
        plain = attempt(lambda score=score: score(part, "eager"), device, sizes.rounds)
        by_design = {}
        for value in triton_design.DESIGNS:
            with design(value):
                by_design[value] = attempt(lambda score=score: score(given, "triton"), device, sizes.rounds)
        rows[f"{name}_scoring"] = {
            "pairs": given.pairs,
            "seconds": ours,
            "seconds_by_design": by_design,
            "product_seconds": product,
            "of_product": product / ours,
            "over_literal": ratio(literal, small),
            "over_eager": ratio(plain, small),
            "over_compiled": ratio(compiled_eager(lambda score=score: score(part, "eager"), device, sizes), small),
        }
    return rows


@contextlib.contextmanager
def design(value: str) -> Iterator[None]:
    """Inside the block, triton's pair score takes this design."""
    before = os.environ.get(triton_design.VARIABLE)
    os.environ[triton_design.VARIABLE] = value
    try:
        yield
    finally:
        del os.environ[triton_design.VARIABLE]
        if before is not None:
            os.environ[triton_design.VARIABLE] = before


def compiled_eager(run: Callable[[], Any], device: torch.device, sizes: GpuSizes) -> float | str:
    """Seconds with the tile function of eager compiled."""
    if device.type != "cuda":
        return "not measured: needs a GPU"
    before = eager.score_tile
    eager.score_tile = torch.compile(gram.score_tile, dynamic=True)
    try:
        return attempt(run, device, sizes.rounds)
    finally:
        eager.score_tile = before


def training(device: torch.device, sizes: GpuSizes, dtype: torch.dtype) -> Rows:
    """(b): forward, hinge loss and backward of a batch."""
    batch = to(features(sizes.batch, sizes.batch, sizes.width), device, dtype)
    rows: Rows = {}
    for name, (scorer, form) in SCORERS.items():

        def step(engine: str, scorer: PairScorer = scorer) -> tuple[Tensor, ...]:
            leaves = [x.detach().requires_grad_() for x in (batch.regions, batch.words)]
            scores = pair_score(*leaves, batch.region_offsets, batch.word_offsets, scorer=scorer, engine=engine)
            return torch.autograd.grad(hinge(scores), leaves)

        def literal_step(form: Callable[..., Tensor] = form) -> tuple[Tensor, ...]:
            images, words = batch.images.detach().requires_grad_(), batch.words.detach().requires_grad_()
            lengths = batch.lengths.tolist()
            captions = torch.nn.utils.rnn.pad_sequence(words.split(lengths), batch_first=True)
            return torch.autograd.grad(hinge(form(images, captions, lengths).float()), (images, words))

        for ours, theirs in zip(step("triton"), step("eager"), strict=True):
            agree(name, ours, theirs, 2e-2)
        ours = seconds(lambda step=step: step("triton"), device, sizes.rounds)
        plain = attempt(lambda step=step: step("eager"), device, sizes.rounds)
        literal = attempt(literal_step, device, max(1, sizes.rounds // 3))
        rows[f"{name}_training"] = {
            "pairs": batch.pairs,
            "seconds": ours,
            "over_literal": ratio(literal, ours),
            "over_eager": ratio(plain, ours),
            "over_compiled": ratio(compiled_eager(lambda step=step: step("eager"), device, sizes), ours),
            "bytes": peak(lambda step=step: step("triton"), device),
            "literal_bytes": peak(literal_step, device) if isinstance(literal, float) else literal,
        }
    return rows


def hinge(scores: Tensor, margin: float = 0.2) -> Tensor:
    """Sum of both directions' hinge losses over all negatives."""
    match = scores.diag()
    cost = (margin + scores - match[:, None]).clamp(min=0) + (margin + scores - match[None, :]).clamp(min=0)
    return cost.masked_fill(torch.eye(len(scores), dtype=torch.bool, device=scores.device), 0).sum()


def attention(device: torch.device, sizes: GpuSizes, dtype: torch.dtype) -> Rows:
    """(c): relation attention over eager, compiled eager and, without the value table it cannot take, FlexAttention."""
    rows: Rows = {}
    for kind in ("spatial", "semantic"):
        given = graphs(kind, sizes.graphs, sizes.heads, sizes.head_width)
        q, k, v, labels, bias, value = (x.to(device, dtype if x.is_floating_point() else None) for x in given.arguments)
        upstream = given.upstream.to(device, dtype)
        leaves = [x.detach().requires_grad_() for x in (q, k, v, bias, value)]

        def forward(engine: str, inputs: tuple[Tensor, ...] = (q, k, v, labels, bias, value)) -> Tensor:
            return relation_attention(*inputs, engine=engine)

        def both(
            engine: str, leaves: list[Tensor] = leaves, labels: Tensor = labels, upstream: Tensor = upstream
        ) -> tuple[Tensor, ...]:
            out = relation_attention(*leaves[:3], labels, *leaves[3:], engine=engine)
            return torch.autograd.grad(out, leaves, upstream)

        agree(kind, forward("triton"), forward("eager"), 2e-2)
        for name, run in (("forward", forward), ("both", both)):
            ours = seconds(lambda run=run: run("triton"), device, sizes.rounds)
            plain = seconds(lambda run=run: run("eager"), device, sizes.rounds)
            rows[f"{kind}_{name}"] = {"seconds": ours, "over_eager": plain / ours}
        if device.type == "cuda":
            ours = rows[f"{kind}_forward"]["seconds"]
            compiled = torch.compile(relations.relation_attention)
            inputs = (q, k, v, labels, bias, value)
            rows[f"{kind}_forward"]["over_compiled"] = ratio(
                attempt(lambda c=compiled, i=inputs: c(*i), device, sizes.rounds), ours
            )
            bare = seconds(lambda i=inputs: relation_attention(*i[:5], engine="triton"), device, sizes.rounds)
            rows[f"{kind}_forward"]["over_flex"] = ratio(flex(inputs[:5], device, sizes.rounds), bare)
    return rows


def flex(inputs: tuple[Tensor, ...], device: torch.device, rounds: int) -> float | str:
    """Seconds of FlexAttention with the labels' bias and mask, and no value table."""
    q, k, v, labels, bias = inputs

    def score(logit: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        label = labels[b, i, j]
        return torch.where(label == 0, -float("inf"), logit + bias[label, h])

    def run() -> Any:
        from torch.nn.attention.flex_attention import flex_attention

        return torch.compile(flex_attention)(q.contiguous(), k.contiguous(), v.contiguous(), score_mod=score)

    return attempt(run, device, rounds)


def scale(device: torch.device, sizes: GpuSizes, dtype: torch.dtype) -> Rows:
    """(d): many pairs into one matrix, time and memory beyond features and matrix."""
    given = to(features(*sizes.scale, sizes.width), device, dtype)
    out = torch.empty(sizes.scale, device=device)

    def run() -> None:
        score_matrix(given.images, given.words, given.lengths, scorer=PairScorer.scan_t2i(), engine="triton", out=out)

    taken = peak(run, device)
    return {"scale": {"pairs": given.pairs, "seconds": seconds(run, device, 1), "bytes": taken}}


def numerics(device: torch.device, sizes: GpuSizes, dtype: torch.dtype) -> Rows:
    """Errors against float64 beside PyTorch's in the same dtype, repeated runs, another stream, a captured graph."""
    rows: Rows = {}
    given = to(features(*sizes.part, sizes.width), device, torch.float32)
    for name, (scorer, form) in SCORERS.items():
        arguments = (given.regions, given.words, given.region_offsets, given.word_offsets)

        def run(engine: str, *inputs: Tensor, scorer: PairScorer = scorer) -> Tensor:
            return pair_score(*inputs, scorer=scorer, engine=engine)

        wide = [x.double() if x.is_floating_point() else x for x in arguments]
        exact = run("eager", *wide)
        rounded = [x.to(dtype) if x.is_floating_point() else x for x in arguments]
        first = run("triton", *rounded)
        lengths = given.lengths.tolist()
        with torch.no_grad():
            theirs = form(given.images.to(dtype), given.padded().to(dtype), lengths).double()
        found: dict[str, Any] = {
            "error": float((first.double() - exact).abs().max()),
            "pytorch_error": float((theirs - exact).abs().max()),
            "same_bits": all(torch.equal(first, run("triton", *rounded)) for _ in range(3)),
        }
        if device.type == "cuda":
            stream = torch.cuda.Stream(device)
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                elsewhere = run("triton", *rounded)
            stream.synchronize()
            found["same_on_a_stream"] = torch.equal(first, elsewhere)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                captured = run("triton", *rounded)
            captured.fill_(float("nan"))
            graph.replay()
            torch.cuda.synchronize(device)
            found["same_from_a_graph"] = torch.equal(first, captured)
        rows[f"{name}_numerics"] = found
    return rows


MEASURES = {
    "scoring": scoring,
    "training": training,
    "attention": attention,
    "scale": scale,
    "numerics": numerics,
}
