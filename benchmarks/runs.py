"""The runs of a study: one JSON file each, made by any number of processes, then collected into a page's table."""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe
from benchmarks.pages import replace_table, write


def parse_arguments(
    about: str | None,
    flags: Callable[[argparse.ArgumentParser], object],
    table: Callable[[Path], None],
    rows: Collection[str] | None = None,
) -> argparse.Namespace | None:
    """Parses a study's command line: returns the arguments of ``train``, or makes the table and returns None.

    ``train`` has ``--runs``, a folder, and ``--seeds``; ``table`` takes a folder of runs.

    Args:
        about: the study's docstring, for the help.
        flags: adds the study's own flags to ``train``.
        table: makes the table of a folder.
        rows: choices of ``--rows``, whose default is all; adds ``--threads`` too. None: neither flag.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    trained = commands.add_parser("train")
    trained.add_argument("--runs", type=Path, required=True)
    trained.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    flags(trained)
    if rows is not None:
        trained.add_argument("--rows", nargs="+", choices=rows, default=list(rows))
        trained.add_argument("--threads", type=int)
    commands.add_parser("table").add_argument("runs", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "train":
        return arguments
    table(arguments.runs)
    return None


def make(
    folder: Path,
    wanted: Mapping[str, Callable[[], dict[str, Any]]],
    summarize: Callable[[dict[str, Any]], str],
    threads: int | None = None,
) -> None:
    """Makes the runs that no process has claimed.

    Args:
        folder: of the runs' files; made if it is not there.
        wanted: for each file name without its ending, the function that makes the run.
        summarize: makes the line that is printed for a run's result.
        threads: of torch; None: unchanged.
    """
    if threads:
        torch.set_num_threads(threads)
    folder.mkdir(parents=True, exist_ok=True)
    for name, run in wanted.items():
        target = folder / f"{name}.json"
        if claimed(target):
            found = run()
            leave(target, found)
            print(summarize(found), flush=True)


def claimed(target: Path) -> bool:
    """Claims the run of that file; False if it is claimed already."""
    try:
        os.close(os.open(target.with_suffix(".claimed"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def leave(target: Path, found: dict[str, Any]) -> None:
    """Writes a run's file: its results and the machine."""
    about = describe()
    write(target, json.dumps({**found, **{key: about[key] for key in ("cpu", "python", "torch")}}, indent=1) + "\n")


def read(runs: Path) -> list[dict[str, Any]]:
    """Reads the files of all runs of a folder, sorted by name."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(runs.glob("*.json"))]


def mean_and_spread(values: Sequence[float]) -> str:
    """Formats the mean and, of several values, the standard deviation."""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def publish(record: dict[str, Any], results: Path, table: str, page: Path, marks: tuple[str, str]) -> None:
    """Writes the record and puts its table into the page.

    Raises:
        ValueError: if the marks are not there once each; nothing is written then.
    """
    text = replace_table(page.read_text(encoding="utf-8"), table, *marks)
    write(results, json.dumps(record, indent=1) + "\n")
    write(page, text)
    print(table)


def tabulate(
    collect: Callable[[Path], dict[str, Any]],
    render: Callable[[dict[str, Any]], str],
    results: Path,
    page: Path,
    marks: tuple[str, str],
    folder: Path,
) -> None:
    """Publishes what ``collect`` makes of a folder of runs, with the table that ``render`` makes of it."""
    record = collect(folder)
    publish(record, results, render(record), page, marks)
