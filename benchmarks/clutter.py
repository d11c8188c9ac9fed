"""What cross-level attention adds when captions mention only a few of an image's regions, on generated scenes.

    python -m benchmarks.clutter train --runs RUNS [--seeds 0 1 2] [--regions 8 …] [--rows flat …]
    python -m benchmarks.clutter table RUNS

The captions describe four objects of a scene; all other regions are background. ``train`` trains each row with more and
more background, tests on unseen scenes and leaves one JSON file per run. It skips a run that is done or that another
process has claimed. ``table`` collects the runs into ``benchmarks/clutter.json`` and the table of ``docs/ablation.md``.
Scenes, training and test are those of ``cmsei-fast demo``, with 500 groups in batches of 128.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import runs
from benchmarks.ablation import PAGE
from benchmarks.pages import ROOT
from cmsei_fast import PairScorer
from cmsei_fast.commands import demo
from cmsei_fast.data import synthetic_scenes

RESULTS = ROOT / "benchmarks" / "clutter.json"
MARKS = "<!-- clutter: made by python -m benchmarks.clutter table -->", "<!-- end of clutter -->"
GROUPS, EPOCHS, BATCH, REGIONS = 500, 4, 128, (8, 16, 24, 36)


def _without_levels(aggregate: str) -> PairScorer:
    """CMSEI's two refined directions alone, their queries aggregated without a look at the other side's whole."""
    full = PairScorer.cmsei()
    assert full.t2i is not None
    assert full.i2t is not None
    return PairScorer(replace(full.t2i, aggregate=aggregate), replace(full.i2t, aggregate=aggregate))


# Row -> (title, scorer).
ROWS: dict[str, tuple[str, PairScorer]] = {
    "flat": ("CMSEI without cross-level and alignment, mean", _without_levels("mean")),
    "lse": ("CMSEI without cross-level and alignment, LSE", _without_levels("lse")),
    "full": ("CMSEI", PairScorer.cmsei()),
}


def run(row: str, regions: int, seed: int, groups: int = GROUPS, epochs: int = EPOCHS) -> dict[str, Any]:
    """Trains one row on scenes of so many regions with one seed; what it gets right on the test scenes."""
    options: dict[str, Any] = {"captions_per_image": demo.CAPTIONS_PER_IMAGE, "regions": regions}
    training = synthetic_scenes(groups, seed=2 * seed, **options)
    test = synthetic_scenes(demo.TEST_GROUPS, seed=2 * seed + 1, **options)
    title, scorer = ROWS[row]
    model = (title, scorer.to_dict(), ("spatial", "semantic"))
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory) / "run"
        result = demo.train_and_test(model, training, test, place, epochs=epochs, seed=seed, batch_size=BATCH)
    return {
        "row": row,
        "regions": regions,
        "seed": seed,
        "group": result.group,
        "rSum": result.rsum,
        "seconds": result.seconds,
        "threads": torch.get_num_threads(),
    }


def collect(folder: Path) -> dict[str, Any]:
    """All runs of a folder with the settings they had, ready for JSON."""
    return {
        "date": datetime.date.today().isoformat(),
        "groups": GROUPS,
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "runs": runs.read(folder),
    }


def render(record: dict[str, Any]) -> str:
    """The table, a row a model, a column a number of regions: captions right within their group, and rSum."""
    sizes = sorted({r["regions"] for r in record["runs"]})
    lines = [
        f"| of {demo.TEST_GROUPS * 4} test images | " + " | ".join(f"{size} regions" for size in sizes) + " |",
        "|---|" + "---:|" * len(sizes),
    ]
    for row, (title, _) in ROWS.items():
        cells = []
        for size in sizes:
            matching = [r for r in record["runs"] if (r["row"], r["regions"]) == (row, size)]
            group, rsum = ([r[key] for r in matching] for key in ("group", "rSum"))
            cells.append(f"{runs.mean_and_spread(group)} % · {statistics.mean(rsum):.0f}" if matching else "")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _flags(trained: argparse.ArgumentParser) -> None:
    trained.add_argument("--regions", type=int, nargs="+", default=list(REGIONS))


def main() -> None:
    table = partial(runs.tabulate, collect, render, RESULTS, PAGE, MARKS)
    arguments = runs.parse_arguments(__doc__, _flags, table, ROWS)
    if arguments is None:
        return
    wanted = {
        f"{row}-{regions}-{seed}": partial(run, row, regions, seed)
        for seed in arguments.seeds
        for regions in arguments.regions
        for row in arguments.rows
    }
    runs.make(arguments.runs, wanted, _summary_line, arguments.threads)


def _summary_line(found: dict[str, Any]) -> str:
    name = f"{found['row']} {found['regions']} {found['seed']}"
    return f"{name}: {found['group']:.1f} %, {found['seconds']:.0f} s"


if __name__ == "__main__":
    main()
