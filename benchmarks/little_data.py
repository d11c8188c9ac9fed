"""Which settings matter with a thousand training images: from the defaults to the file of ``docs/ablation.md``.

    python -m benchmarks.little_data train FOLDER --word-vectors FILE --runs RUNS [--seeds 0 1 2] [--rows defaults …]
    python -m benchmarks.little_data table RUNS

``train`` takes the folder that ``benchmarks.ablation`` takes, trains each row on ``val`` without its last 250 images,
tests on those and leaves one JSON file per run. It skips a run that is done or that another process has claimed. Each
row adds some settings to those of the row before; the last is the ablation's row "CMSEI, both graphs, K = 2". ``table``
collects the runs into ``benchmarks/little_data.json`` and the table of ``docs/ablation.md``.
"""

from __future__ import annotations

import datetime
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import runs
from benchmarks.ablation import MODEL, PAGE, ROWS, TRAINING, data_flags, load, make_rows, measure
from benchmarks.pages import ROOT
from cmsei_fast import PairScorer
from cmsei_fast.data import Split
from cmsei_fast.training import TrainConfig

RESULTS = ROOT / "benchmarks" / "little_data.json"
MARKS = "<!-- little data: made by python -m benchmarks.little_data table -->", "<!-- end of little data -->"

HELD_OUT = 250  # the last images of the split, on which all of the settings were chosen
_DEFAULTS = TrainConfig(epochs=TRAINING.epochs)
_SIZE = {name: MODEL[name] for name in ("width", "word_width")}

# Row -> (title, scorer, further fields of the model, training).
STEPS: dict[str, tuple[str, PairScorer, dict[str, Any], TrainConfig]] = {
    "defaults": (
        "the defaults: hinge on the hardest negative, `PairScorer.cmsei()`",
        PairScorer.cmsei(),
        _SIZE,
        _DEFAULTS,
    ),
    "infonce": ("+ InfoNCE", PairScorer.cmsei(), _SIZE, replace(_DEFAULTS, loss="infonce")),
    "rates": (
        "+ learning rate and its cosine, `word_residual`, dropout of values, words and regions",
        PairScorer.cmsei(),
        MODEL,
        TRAINING,
    ),
    "file": (
        "+ LSE in place of the guided sum, light cross-level terms: the file",
        ROWS["full-2"][1],
        MODEL,
        TRAINING,
    ),
}


def hold_out(split: Split, held_out: int = HELD_OUT) -> tuple[Split, Split]:
    """Returns the split without its last images, and a split of those images."""
    order = np.arange(len(split))
    return split.subset(order[:-held_out]), split.subset(order[-held_out:])


def run(row: str, seed: int, training: Split, test: Split, word_vectors: str) -> dict[str, Any]:
    """Trains one row with one seed; its recalls on the images held out and what it took."""
    title, scorer, model, config = STEPS[row]
    settings = {**model, "scorer": scorer.to_dict(), "relations": ROWS["full-2"][2]}
    found = measure(settings, replace(config, seed=seed), training, test, word_vectors)
    return {"row": row, "title": title, "seed": seed, **found}


def collect(folder: Path) -> dict[str, Any]:
    """All runs of a folder with the settings they had, ready for JSON."""
    return {
        "date": datetime.date.today().isoformat(),
        "held_out": HELD_OUT,
        "settings": {
            row: {"scorer": scorer.to_dict(), "model": model, "training": config.to_dict()}
            for row, (_, scorer, model, config) in STEPS.items()
        },
        "runs": runs.read(folder),
    }


def render(record: dict[str, Any]) -> str:
    """The table, a row a set of settings: mean and standard deviation of the seeds."""
    lines = ["| | seeds | rSum |", "|---|---:|---:|"]
    for row, (title, *_) in STEPS.items():
        sums = [r["metrics"]["rSum"] for r in record["runs"] if r["row"] == row]
        if sums:
            lines.append(f"| {title} | {len(sums)} | {runs.mean_and_spread(sums)} |")
    return "\n".join(lines)


def main() -> None:
    table = partial(runs.tabulate, collect, render, RESULTS, PAGE, MARKS)
    arguments = runs.parse_arguments(__doc__, data_flags, table, STEPS)
    if arguments is not None:
        make_rows(run, arguments, *hold_out(load(arguments.folder)[0]))


if __name__ == "__main__":
    main()
