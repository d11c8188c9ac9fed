"""The measures of the pair score on a GPU (``gpu.py`` runs them), and the list of all measures by name.

Every measure takes a ``Run`` and returns the rows of its engine {key: {…}}. Seconds are medians: of CUDA events on a
GPU, and of the clock in Triton's interpreter, where they only show that every line runs.

``python -m benchmarks.gpu_measures cuda OTHERS OUT scoring attention`` takes some of an engine's measures. Each is
written to OUT, one JSON object per line, as soon as it is done. A measure that takes longer than ``MEASURE_SECONDS``
ends the process, which prints its stack.
"""

from __future__ import annotations

import faulthandler
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import gpu_timing
from benchmarks.captions import Features, features
from benchmarks.gpu_attention import attention, compiled_attention, graph_inputs
from benchmarks.gpu_cases import design
from benchmarks.gpu_recall import recall
from benchmarks.gpu_timing import Rows, Run, ratio
from benchmarks.paired import agree
from benchmarks.training import FORMS, field_step, step
from cmsei_fast import PairScorer, pair_score, relation_attention, score_matrix
from cmsei_fast.engines import eager, gram, triton_design
from cmsei_fast.engines.eight_bits import FORMATS

SCORERS = {name: FORMS[name][:2] for name in ("scan", "cmsei")}


def drawn(at: Run, images: int, captions: int, dtype: torch.dtype | None = None) -> Features:
    """Features on the run's device, in its dtype unless another is given."""
    return features(images, captions, at.sizes.width, dtype=dtype or at.dtype, device=at.device)


def bare_product(given: Features) -> None:
    """The library's product of the packed words and regions, in blocks that are not kept."""
    for block in given.words.split(16384):
        for regions in given.regions.split(16384):
            torch.mm(block, regions.T)


def scoring(at: Run) -> Rows:
    """All pairs, over the bare product; over the literal form and eager on a part of them."""
    given = drawn(at, *at.sizes.score)
    part = given.first(*at.sizes.part)
    padded, lengths = part.padded(), part.lengths.tolist()
    product = at.other("product", lambda: at.seconds(lambda: bare_product(given)))
    rows: Rows = {}
    for name, (scorer, form) in SCORERS.items():

        def score(which: Features, engine: str, precision: str | None = None, scorer: PairScorer = scorer) -> Tensor:
            given = which.images, which.words, which.lengths
            return score_matrix(*given, scorer=scorer, engine=engine, precision=precision)

        def literal(form: Callable[..., Tensor] = form) -> Tensor:
            with torch.no_grad():
                return form(part.images, padded, lengths)

        def plain(score: Callable[..., Tensor] = score) -> Tensor:
            return score(part, "eager")

        def ours(which: Features, score: Callable[..., Tensor] = score) -> Tensor:
            return score(which, at.engine)

        agree(name, ours(part), plain(), 5e-3)
        for precision in FORMATS:
            agree(f"{name} in {precision}", score(part, at.engine, precision), score(part, "eager", precision), 5e-3)
        taken, small = at.seconds(lambda ours=ours: ours(given)), at.seconds(lambda ours=ours: ours(part))
        rows[f"{name}_scoring"] = {
            "pairs": given.pairs,
            "seconds": taken,
            "product_seconds": product,
            "of_product": product / taken,
            **{
                f"{precision}_of_product": product / at.seconds(lambda s=score, p=precision: s(given, at.engine, p))
                for precision in FORMATS
            },
            "over_literal": ratio(at.other(f"{name} literal", lambda f=literal: at.attempt(f)), small),
            "over_eager": ratio(at.other(f"{name} eager", lambda f=plain: at.attempt(f)), small),
        }
    return rows


def designs(at: Run) -> Rows:
    """Scoring by each of triton's designs."""
    if at.engine != "triton":
        return {}
    given = drawn(at, *at.sizes.score)
    rows: Rows = {}
    for name, (scorer, _) in SCORERS.items():

        def ours(scorer: PairScorer = scorer) -> Tensor:
            return score_matrix(given.images, given.words, given.lengths, scorer=scorer, engine=at.engine)

        by_design = rows.setdefault(f"{name}_scoring", {}).setdefault("seconds_by_design", {})
        for value in triton_design.DESIGNS:
            with design(value):
                by_design[value] = at.attempt(ours)
    return rows


def compiled_eager(run: Callable[[], Any], at: Run) -> float | str:
    """Seconds with the tile function of eager compiled."""
    if at.device.type != "cuda":
        return "not measured: needs a GPU"
    before = eager.score_tile
    eager.score_tile = torch.compile(gram.score_tile, dynamic=True)
    try:
        return at.attempt(run)
    finally:
        eager.score_tile = before


def compiled(at: Run) -> Rows:
    """What ``torch.compile`` makes of eager: of scores and of a training step. Compiling takes most of the time."""
    part, batch = drawn(at, *at.sizes.part), drawn(at, at.sizes.batch, at.sizes.batch)
    rows: Rows = {}
    for name, (scorer, _) in SCORERS.items():

        def score(engine: str, scorer: PairScorer = scorer) -> Tensor:
            return score_matrix(part.images, part.words, part.lengths, scorer=scorer, engine=engine)

        def trained(engine: str, name: str = name) -> tuple[Tensor, ...]:
            return step(batch, name, engine)

        for row, run in (("scoring", score), ("training", trained)):
            theirs = at.other(f"{name} compiled {row}", lambda run=run: compiled_eager(lambda: run("eager"), at))
            ours = at.other(f"{at.engine} {name} {row} again", lambda run=run: at.seconds(lambda: run(at.engine)))
            rows[f"{name}_{row}"] = {"over_compiled": ratio(theirs, ours)}
    return rows


def training(at: Run) -> Rows:
    """Forward, hinge loss and backward of a batch."""
    batch = drawn(at, at.sizes.batch, at.sizes.batch)
    rows: Rows = {}
    for name in SCORERS:

        def literal(name: str = name) -> tuple[Tensor, ...]:
            return field_step(batch, name)

        def plain(name: str = name) -> tuple[Tensor, ...]:
            return step(batch, name, "eager")

        def ours(name: str = name) -> tuple[Tensor, ...]:
            return step(batch, name, at.engine)

        def literal_bytes(literal: Callable[..., Any] = literal) -> int | str:
            return at.peak(literal) if at.device.type == "cuda" else "not measured: needs a GPU"

        for found, expected in zip(ours(), plain(), strict=True):
            agree(name, found, expected, 2e-2)
        taken = at.seconds(ours)
        slow = at.other(f"{name} literal step", lambda f=literal: at.attempt(f, max(1, at.sizes.rounds // 3)))
        rows[f"{name}_training"] = {
            "pairs": batch.pairs,
            "seconds": taken,
            "over_literal": ratio(slow, taken),
            "over_eager": ratio(at.other(f"{name} eager step", lambda f=plain: at.attempt(f)), taken),
            "bytes": at.peak(ours),
            "literal_bytes": slow if isinstance(slow, str) else at.other(f"{name} literal bytes", literal_bytes),
        }
    return rows


def replays(at: Run) -> Rows:
    """Relation attention and a part's scores replayed as CUDA graphs: launching takes most of so short a time."""
    part = drawn(at, *at.sizes.part)
    packed = part.regions, part.words, part.region_offsets, part.word_offsets
    runs: dict[str, Callable[[str], Any]] = {}
    for kind in ("spatial", "semantic"):
        inputs = graph_inputs(at, kind)
        runs[f"{kind}_forward"] = lambda engine, inputs=inputs: relation_attention(*inputs, engine=engine)
    for name, (scorer, _) in SCORERS.items():
        runs[f"{name}_scoring"] = lambda engine, scorer=scorer: pair_score(*packed, scorer=scorer, engine=engine)
    rows: Rows = {}
    for key, run in runs.items():
        ours = at.replayed(lambda run=run: run(at.engine))
        rows[key] = {"replayed_seconds": ours}
        if not isinstance(ours, str):
            theirs = at.other(f"{key} replayed", lambda run=run: at.replayed(lambda: run("eager")))
            rows[key]["replayed_over_eager"] = ratio(theirs, ours)
    return rows


def scale(at: Run) -> Rows:
    """Many pairs into one matrix, time and memory beyond features and matrix."""
    given = drawn(at, *at.sizes.scale)
    out = torch.empty(at.sizes.scale, device=at.device)
    scorer = PairScorer.scan_t2i()

    def run() -> None:
        score_matrix(given.images, given.words, given.lengths, scorer=scorer, engine=at.engine, out=out)

    taken = at.peak(run)
    return {"scale": {"pairs": given.pairs, "seconds": at.seconds(run, 1), "bytes": taken}}


def numerics(at: Run) -> Rows:
    """Errors against float64 beside PyTorch's in the same dtype, repeated runs, another stream, a captured graph."""
    rows: Rows = {}
    given = drawn(at, *at.sizes.part, torch.float32)
    for name, (scorer, form) in SCORERS.items():
        arguments = (given.regions, given.words, given.region_offsets, given.word_offsets)

        def run(engine: str, *inputs: Tensor, scorer: PairScorer = scorer) -> Tensor:
            return pair_score(*inputs, scorer=scorer, engine=engine)

        wide = [x.double() if x.is_floating_point() else x for x in arguments]
        exact = run("eager", *wide)
        rounded = [x.to(at.dtype) if x.is_floating_point() else x for x in arguments]
        first = run(at.engine, *rounded)
        lengths = given.lengths.tolist()
        with torch.no_grad():
            theirs = form(given.images.to(at.dtype), given.padded().to(at.dtype), lengths).double()
        found: dict[str, Any] = {
            "error": float((first.double() - exact).abs().max()),
            "pytorch_error": float((theirs - exact).abs().max()),
            "same_bits": all(torch.equal(first, run(at.engine, *rounded)) for _ in range(3)),
        }
        if at.device.type == "cuda":
            stream = torch.cuda.Stream(at.device)
            stream.wait_stream(torch.cuda.current_stream(at.device))
            with torch.cuda.stream(stream):
                elsewhere = run(at.engine, *rounded)
            stream.synchronize()
            found["same_on_a_stream"] = torch.equal(first, elsewhere)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                captured = run(at.engine, *rounded)
            captured.fill_(float("nan"))
            graph.replay()
            torch.cuda.synchronize(at.device)
            found["same_from_a_graph"] = torch.equal(first, captured)
        rows[f"{name}_numerics"] = found
    return rows


MEASURES = {
    "scoring": scoring,
    "attention": attention,
    "recall": recall,
    "training": training,
    "numerics": numerics,
    "scale": scale,
    "designs": designs,
    "replays": replays,
    "compiled_attention": compiled_attention,
    "compiled": compiled,
}


def main(arguments: list[str]) -> int:
    """Runs measures of an engine; arguments: engine, file of times to compare with, results file, measures."""
    engine, others, out, *names = arguments
    cpu = not torch.cuda.is_available()
    sizes, dtype = (gpu_timing.SMALL, torch.float32) if cpu else (gpu_timing.FULL, torch.bfloat16)
    known = json.loads(Path(others).read_text(encoding="utf-8"))
    at = Run(torch.device("cpu" if cpu else "cuda"), sizes, dtype, engine, known)
    with Path(out).open("a", encoding="utf-8") as lines:
        for name in names:
            lines.write(json.dumps({"begun": name}) + "\n")
            lines.flush()
            start = time.perf_counter()
            if not cpu:
                faulthandler.dump_traceback_later(gpu_timing.MEASURE_SECONDS, exit=True)
            try:
                found = {"rows": MEASURES[name](at), "others": at.others}
            except Exception as error:  # reported in one line, so that earlier measures are not lost
                traceback.print_exc()
                found = {"failed": f"{type(error).__name__}: {str(error)[:500]}"}
            faulthandler.cancel_dump_traceback_later()
            found |= {"measure": name, "seconds": time.perf_counter() - start}
            lines.write(json.dumps(found) + "\n")
            lines.flush()
            if "failed" in found:  # a GPU's error lasts as long as its process: the other measures need a new one
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
