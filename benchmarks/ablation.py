"""What each part of CMSEI adds on real data: trains on one split and tests on another, with several seeds.

    python -m benchmarks.ablation train FOLDER --word-vectors FILE --runs RUNS [--seeds 0 1 2] [--rows scan …]
    python -m benchmarks.ablation table RUNS

``train`` takes a folder with ``val.jsonl.gz``, ``test.jsonl.gz`` and ``labels.json``: scene graphs of Flickr30K's
standard validation and test splits, whose regions are a label, a box and relations, without pixels. It trains on
``val``, tests on ``test`` and leaves one JSON file per run. It skips a run that is done or that another process has
claimed, so several processes can share the work. ``table`` collects the runs into ``benchmarks/ablation.json`` and the
table of ``docs/ablation.md``.

The hyper-parameters were chosen on the last 250 images of ``val`` after training on the others, never on ``test``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import runs
from benchmarks.pages import ROOT
from cmsei_fast import Attention, PairScorer, evaluate
from cmsei_fast.commands.train import make_model
from cmsei_fast.data import Split, read_scenes, split_from_scenes
from cmsei_fast.training import TrainConfig, train

RESULTS, PAGE = ROOT / "benchmarks" / "ablation.json", ROOT / "docs" / "ablation.md"
MARKS = "<!-- ablation: made by python -m benchmarks.ablation table -->", "<!-- end of ablation -->"

TRAINING = TrainConfig(
    epochs=5,
    batch_size=128,
    learning_rate=3e-3,
    weight_decay=0.01,
    schedule="cosine",
    loss="infonce",
    scale=20.0,
)
MODEL: dict[str, Any] = {
    "width": 256,
    "word_width": 300,
    "word_residual": True,
    "dropout": 0.2,
    "word_dropout": 0.1,
    "region_dropout": 0.1,
}
BOTH = ("spatial", "semantic")


def _scorer(steps: int = 1, levels: float = 0.2) -> PairScorer:
    """Both directions; the guide starts flat and the cross-level terms start light, as was best on held-out images."""
    t2i, i2t = (Attention(temperature=t, aggregate="lse", steps=steps) for t in (9.0, 4.0))
    return PairScorer(t2i, i2t, levels, levels, levels, guide_temperature=1.0)


# Row -> (title, scorer, graphs).
ROWS: dict[str, tuple[str, PairScorer, tuple[str, ...]]] = {
    "scan": ("SCAN t2i", PairScorer.scan_t2i(), ()),
    "i2t": ("+ i2t", _scorer(levels=0.0), ()),
    "levels": ("+ cross-level and alignment", _scorer(), ()),
    "spatial": ("+ cross-level and alignment, spatial graph", _scorer(), ("spatial",)),
    "semantic": ("+ cross-level and alignment, semantic graph", _scorer(), ("semantic",)),
    "full-1": ("CMSEI, both graphs, K = 1", _scorer(steps=1), BOTH),
    "full-2": ("CMSEI, both graphs, K = 2", _scorer(steps=2), BOTH),
    "full-3": ("CMSEI, both graphs, K = 3", _scorer(steps=3), BOTH),
    "flat": ("CMSEI, both graphs, K = 2, no cross-level and alignment", _scorer(steps=2, levels=0.0), BOTH),
    "implicit": ("CMSEI, K = 2, implicit graph too", _scorer(steps=2), ("implicit", *BOTH)),
}


def load(folder: Path) -> tuple[Split, Split]:
    """The splits to train on and to test on, over the same names."""
    names = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    training, test = (
        split_from_scenes(
            read_scenes(folder / f"{name}.jsonl.gz"),
            object_names=names["objects"],
            predicate_names=names["predicates"],
        )
        for name in ("val", "test")
    )
    return training, test


def measure(
    settings: dict[str, Any], config: TrainConfig, training: Split, test: Split, word_vectors: str
) -> dict[str, Any]:
    """Trains a model of these settings; its recalls on the test split, its scorer's numbers and what it took."""
    model = make_model(training, settings, config, word_vectors)
    with tempfile.TemporaryDirectory() as directory:
        start = time.perf_counter()
        train(model, training, None, Path(directory) / "run", config, progress=False)
        seconds = time.perf_counter() - start
    images, captions = model.encode_images(test), model.encode_captions(test.captions)
    metrics = evaluate(images, captions, scorer=model.scorer, caption_to_image=test.caption_to_image)
    return {
        "metrics": metrics.to_dict(),
        "scorer": model.scorer.to_dict(),
        "seconds_per_epoch": seconds / config.epochs,
        "threads": torch.get_num_threads(),
    }


def run(row: str, seed: int, training: Split, test: Split, word_vectors: str) -> dict[str, Any]:
    """Trains one row with one seed; its recalls on the test split and what it took."""
    title, scorer, relations = ROWS[row]
    settings = {**MODEL, "scorer": scorer.to_dict(), "relations": relations}
    found = measure(settings, replace(TRAINING, seed=seed), training, test, word_vectors)
    return {"row": row, "title": title, "seed": seed, **found}


def collect(folder: Path) -> dict[str, Any]:
    """All runs of a folder with the settings they had, ready for JSON."""
    return {
        "date": datetime.date.today().isoformat(),
        "training": TRAINING.to_dict(),
        "model": MODEL,
        "runs": runs.read(folder),
    }


def render(record: dict[str, Any]) -> str:
    """The table, a row a model: mean and standard deviation of the seeds."""
    lines = [
        "| | seeds | i2t R@1 | R@5 | R@10 | t2i R@1 | R@5 | R@10 | rSum |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row, (title, _, _) in ROWS.items():
        row_metrics = [r["metrics"] for r in record["runs"] if r["row"] == row]
        if not row_metrics:
            continue
        recalls = [
            statistics.mean(metrics[way][level] for metrics in row_metrics)
            for way in ("i2t", "t2i")
            for level in ("R@1", "R@5", "R@10")
        ]
        sums = [metrics["rSum"] for metrics in row_metrics]
        figures = " | ".join(f"{x:.1f}" for x in recalls)
        lines.append(f"| {title} | {len(row_metrics)} | {figures} | {runs.mean_and_spread(sums)} |")
    return "\n".join(lines)


def data_flags(trained: argparse.ArgumentParser) -> None:
    """Adds the arguments for training on the real data: its folder and ``--word-vectors``."""
    trained.add_argument("folder", type=Path)
    trained.add_argument("--word-vectors", required=True)


def make_rows(run: Callable[..., dict[str, Any]], arguments: argparse.Namespace, training: Split, test: Split) -> None:
    """Makes every row of the arguments with every seed, by the study's ``run``."""
    wanted = {
        f"{row}-{seed}": partial(run, row, seed, training, test, arguments.word_vectors)
        for seed in arguments.seeds
        for row in arguments.rows
    }
    runs.make(arguments.runs, wanted, _summary_line, arguments.threads)


def _summary_line(found: dict[str, Any]) -> str:
    rsum, seconds = found["metrics"]["rSum"], found["seconds_per_epoch"]
    return f"{found['row']} {found['seed']}: rSum {rsum:.1f}, {seconds:.1f} s an epoch"


def main() -> None:
    table = partial(runs.tabulate, collect, render, RESULTS, PAGE, MARKS)
    arguments = runs.parse_arguments(__doc__, data_flags, table, ROWS)
    if arguments is not None:
        make_rows(run, arguments, *load(arguments.folder))


if __name__ == "__main__":
    main()
