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


def draw_features(bench: Run, images: int, captions: int, dtype: torch.dtype | None = None) -> Features:
    """Random features on the run's device, in its dtype unless another is given."""
    return features(images, captions, bench.sizes.width, dtype=dtype or bench.dtype, device=bench.device)


def bare_product(data: Features) -> None:
    """The library's product of the packed words and regions, in blocks that are not kept."""
    for block in data.words.split(16384):
        for regions in data.regions.split(16384):
            torch.mm(block, regions.T)


def scoring(bench: Run) -> Rows:
    """Scoring: all pairs compared with the bare product, a part of them with the literal form and with eager."""
    data = draw_features(bench, *bench.sizes.score)
    part = data.first(*bench.sizes.part)
    padded, lengths = part.padded(), part.lengths.tolist()
    product_seconds = bench.other("product", lambda: bench.seconds(lambda: bare_product(data)))
    rows: Rows = {}
    for name, (scorer, literal_form) in SCORERS.items():

        def score(data: Features, engine: str, precision: str | None = None, scorer: PairScorer = scorer) -> Tensor:
            arguments = data.images, data.words, data.lengths
            return score_matrix(*arguments, scorer=scorer, engine=engine, precision=precision)

        def literal(literal_form: Callable[..., Tensor] = literal_form) -> Tensor:
            with torch.no_grad():
                return literal_form(part.images, padded, lengths)

        def by_eager(score: Callable[..., Tensor] = score) -> Tensor:
            return score(part, "eager")

        def by_engine(data: Features, score: Callable[..., Tensor] = score) -> Tensor:
            return score(data, bench.engine)

        agree(name, by_engine(part), by_eager(), 5e-3)
        for precision in FORMATS:
            agree(f"{name} in {precision}", score(part, bench.engine, precision), score(part, "eager", precision), 5e-3)
        seconds, part_seconds = (
            bench.seconds(lambda by_engine=by_engine: by_engine(data)),
            bench.seconds(lambda by_engine=by_engine: by_engine(part)),
        )
        rows[f"{name}_scoring"] = {
            "pairs": data.pairs,
            "seconds": seconds,
            "product_seconds": product_seconds,
            "of_product": product_seconds / seconds,
            **{
                f"{precision}_of_product": product_seconds
                / bench.seconds(lambda s=score, p=precision: s(data, bench.engine, p))
                for precision in FORMATS
            },
            "over_literal": ratio(bench.other(f"{name} literal", lambda f=literal: bench.attempt(f)), part_seconds),
            "over_eager": ratio(bench.other(f"{name} eager", lambda f=by_eager: bench.attempt(f)), part_seconds),
        }
    return rows


def designs(bench: Run) -> Rows:
    """Scoring by each of triton's designs."""
    if bench.engine != "triton":
        return {}
    data = draw_features(bench, *bench.sizes.score)
    rows: Rows = {}
    for scorer_name, (scorer, _) in SCORERS.items():

        def score(scorer: PairScorer = scorer) -> Tensor:
            return score_matrix(data.images, data.words, data.lengths, scorer=scorer, engine=bench.engine)

        by_design = rows.setdefault(f"{scorer_name}_scoring", {}).setdefault("seconds_by_design", {})
        for name in triton_design.DESIGNS:
            with design(name):
                by_design[name] = bench.attempt(score)
    return rows


def compiled_eager(run: Callable[[], Any], bench: Run) -> float | str:
    """Seconds with the tile function of eager compiled."""
    if bench.device.type != "cuda":
        return "not measured: needs a GPU"
    before = eager.score_tile
    eager.score_tile = torch.compile(gram.score_tile, dynamic=True)
    try:
        return bench.attempt(run)
    finally:
        eager.score_tile = before


def compiled(bench: Run) -> Rows:
    """Scoring and a training step compared with eager under ``torch.compile``. Compiling takes most of the time."""
    part, batch = draw_features(bench, *bench.sizes.part), draw_features(bench, bench.sizes.batch, bench.sizes.batch)
    rows: Rows = {}
    for name, (scorer, _) in SCORERS.items():

        def score(engine: str, scorer: PairScorer = scorer) -> Tensor:
            return score_matrix(part.images, part.words, part.lengths, scorer=scorer, engine=engine)

        def train(engine: str, name: str = name) -> tuple[Tensor, ...]:
            return step(batch, name, engine)

        for task, run in (("scoring", score), ("training", train)):
            compiled_seconds = bench.other(
                f"{name} compiled {task}", lambda run=run: compiled_eager(lambda: run("eager"), bench)
            )
            engine_seconds = bench.other(
                f"{bench.engine} {name} {task} again", lambda run=run: bench.seconds(lambda: run(bench.engine))
            )
            rows[f"{name}_{task}"] = {"over_compiled": ratio(compiled_seconds, engine_seconds)}
    return rows


def training(bench: Run) -> Rows:
    """A training step of a batch: forward, hinge loss and backward."""
    batch = draw_features(bench, bench.sizes.batch, bench.sizes.batch)
    rows: Rows = {}
    for name in SCORERS:

        def literal(name: str = name) -> tuple[Tensor, ...]:
            return field_step(batch, name)

        def by_eager(name: str = name) -> tuple[Tensor, ...]:
            return step(batch, name, "eager")

        def by_engine(name: str = name) -> tuple[Tensor, ...]:
            return step(batch, name, bench.engine)

        def literal_bytes(literal: Callable[..., Any] = literal) -> int | str:
            return bench.peak(literal) if bench.device.type == "cuda" else "not measured: needs a GPU"

        for actual, expected in zip(by_engine(), by_eager(), strict=True):
            agree(name, actual, expected, 2e-2)
        seconds = bench.seconds(by_engine)
        literal_seconds = bench.other(
            f"{name} literal step", lambda f=literal: bench.attempt(f, max(1, bench.sizes.rounds // 3))
        )
        rows[f"{name}_training"] = {
            "pairs": batch.pairs,
            "seconds": seconds,
            "over_literal": ratio(literal_seconds, seconds),
            "over_eager": ratio(bench.other(f"{name} eager step", lambda f=by_eager: bench.attempt(f)), seconds),
            "bytes": bench.peak(by_engine),
            "literal_bytes": literal_seconds
            if isinstance(literal_seconds, str)
            else bench.other(f"{name} literal bytes", literal_bytes),
        }
    return rows


def replays(bench: Run) -> Rows:
    """Relation attention and a part's scores replayed as CUDA graphs, because so short runs are mostly launching."""
    part = draw_features(bench, *bench.sizes.part)
    packed = part.regions, part.words, part.region_offsets, part.word_offsets
    calls: dict[str, Callable[[str], Any]] = {}
    for kind in ("spatial", "semantic"):
        inputs = graph_inputs(bench, kind)
        calls[f"{kind}_forward"] = lambda engine, inputs=inputs: relation_attention(*inputs, engine=engine)
    for name, (scorer, _) in SCORERS.items():
        calls[f"{name}_scoring"] = lambda engine, scorer=scorer: pair_score(*packed, scorer=scorer, engine=engine)
    rows: Rows = {}
    for name, call in calls.items():
        seconds = bench.replayed(lambda call=call: call(bench.engine))
        rows[name] = {"replayed_seconds": seconds}
        if not isinstance(seconds, str):
            eager_seconds = bench.other(f"{name} replayed", lambda call=call: bench.replayed(lambda: call("eager")))
            rows[name]["replayed_over_eager"] = ratio(eager_seconds, seconds)
    return rows


def scale(bench: Run) -> Rows:
    """Many pairs scored into one matrix: time, and memory besides the features and the matrix."""
    data = draw_features(bench, *bench.sizes.scale)
    out = torch.empty(bench.sizes.scale, device=bench.device)
    scorer = PairScorer.scan_t2i()

    def run() -> None:
        score_matrix(data.images, data.words, data.lengths, scorer=scorer, engine=bench.engine, out=out)

    peak_bytes = bench.peak(run)
    return {"scale": {"pairs": data.pairs, "seconds": bench.seconds(run, 1), "bytes": peak_bytes}}


def numerics(bench: Run) -> Rows:
    """Errors against float64, ours and PyTorch's; whether repeated runs, another stream and a CUDA graph agree."""
    rows: Rows = {}
    data = draw_features(bench, *bench.sizes.part, torch.float32)
    for name, (scorer, literal_form) in SCORERS.items():
        arguments = (data.regions, data.words, data.region_offsets, data.word_offsets)

        def run(engine: str, *inputs: Tensor, scorer: PairScorer = scorer) -> Tensor:
            return pair_score(*inputs, scorer=scorer, engine=engine)

        wide_arguments = [x.double() if x.is_floating_point() else x for x in arguments]
        exact = run("eager", *wide_arguments)
        rounded_arguments = [x.to(bench.dtype) if x.is_floating_point() else x for x in arguments]
        first = run(bench.engine, *rounded_arguments)
        lengths = data.lengths.tolist()
        with torch.no_grad():
            pytorch_scores = literal_form(data.images.to(bench.dtype), data.padded().to(bench.dtype), lengths).double()
        row: dict[str, Any] = {
            "error": float((first.double() - exact).abs().max()),
            "pytorch_error": float((pytorch_scores - exact).abs().max()),
            "same_bits": all(torch.equal(first, run(bench.engine, *rounded_arguments)) for _ in range(3)),
        }
        if bench.device.type == "cuda":
            stream = torch.cuda.Stream(bench.device)
            stream.wait_stream(torch.cuda.current_stream(bench.device))
            with torch.cuda.stream(stream):
                elsewhere = run(bench.engine, *rounded_arguments)
            stream.synchronize()
            row["same_on_a_stream"] = torch.equal(first, elsewhere)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                captured = run(bench.engine, *rounded_arguments)
            captured.fill_(float("nan"))
            graph.replay()
            torch.cuda.synchronize(bench.device)
            row["same_from_a_graph"] = torch.equal(first, captured)
        rows[f"{name}_numerics"] = row
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
    engine, others_path, results_path, *names = arguments
    cpu = not torch.cuda.is_available()
    sizes, dtype = (gpu_timing.SMALL, torch.float32) if cpu else (gpu_timing.FULL, torch.bfloat16)
    known_others = json.loads(Path(others_path).read_text(encoding="utf-8"))
    bench = Run(torch.device("cpu" if cpu else "cuda"), sizes, dtype, engine, known_others)
    with Path(results_path).open("a", encoding="utf-8") as lines:
        for name in names:
            lines.write(json.dumps({"begun": name}) + "\n")
            lines.flush()
            start = time.perf_counter()
            if not cpu:
                faulthandler.dump_traceback_later(gpu_timing.MEASURE_SECONDS, exit=True)
            try:
                outcome = {"rows": MEASURES[name](bench), "others": bench.others}
            except Exception as error:  # reported in one line, so that earlier measures are not lost
                traceback.print_exc()
                outcome = {"failed": f"{type(error).__name__}: {str(error)[:500]}"}
            faulthandler.cancel_dump_traceback_later()
            outcome |= {"measure": name, "seconds": time.perf_counter() - start}
            lines.write(json.dumps(outcome) + "\n")
            lines.flush()
            if "failed" in outcome:  # a GPU error can outlast the measure: the others need a new process
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
