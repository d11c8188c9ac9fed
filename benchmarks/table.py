"""Writes the tables of speeds in README and docs/speed.md from the results files: ``python -m benchmarks.table``.

It also writes which engines the GPU results verify (``cmsei_fast/engines/verified.json``), for ``engine="auto"``.
With ``--check`` nothing is written, and the exit status says whether all of it is up to date.
"""

from __future__ import annotations

import datetime
import json
import math
import sys
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.pages import RESULTS, ROOT, replace_table, write
from benchmarks.rows import ROWS, extent, figure

README, SPEED = ROOT / "README.md", ROOT / "docs" / "speed.md"
BEGIN, END = "<!-- speed: made by python -m benchmarks.table -->", "<!-- end of speed -->"
# README's rows; docs/speed.md has them all, with quartiles.
HEADLINES = (
    "scan_field_fp32",
    "scan_field_bf16",
    "cmsei_field_fp32",
    "training_time",
    "training_cmsei",
    "training_memory",
    "scan_mm_fp32",
    "scan_onednn_fp32",
    "scan_peak_fp32",
    "scan_mm_bf16",
    "cmsei_over_scan",
    "relation_spatial_both",
    "relation_semantic_both",
    "sgraf_saf_fp32",
    "sgraf_sgr_fp32",
    "large_5k_seconds",
    "large_5k_field",
    "accuracy",
)
# Pairs per second of both sides of a row, above the headlines.
RATES = {
    "scan_field_fp32": "SCAN t2i, fp32, pairs per second: native / the field's code",
    "cmsei_field_fp32": "CMSEI, fp32, pairs per second: native / the literal form",
}
# README has the processors measured within so many days of the newest; older results are of other sources.
RECENT = datetime.timedelta(days=2)
OLDER = "**Older measurements**, of earlier sources, which have not been repeated on these processors:"
GPU_BEGIN, GPU_END = "<!-- gpu: made by python -m benchmarks.table -->", "<!-- end of gpu -->"
VERIFIED = ROOT / "cmsei_fast" / "engines" / "verified.json"
GPU_NOTHING = "Not yet run on a GPU: `python -m benchmarks.gpu` on a machine that has one runs the tests and measures."
# Column of a GPU's row: its title and how its numbers are written.
GPU_COLUMNS = {
    "seconds": ("seconds", "{:.3g}"),
    "of_product": ("of the bare product's speed", "{:.2f}"),
    "float8_of_product": ("of the bare product's speed, in float8", "{:.2f}"),
    "int8_of_product": ("of the bare product's speed, in int8", "{:.2f}"),
    "over_literal": ("over the literal form", "{:.1f}×"),
    "over_eager": ("over eager", "{:.2f}×"),
    "over_compiled": ("over compiled eager", "{:.2f}×"),
    "replayed_seconds": ("replayed as a graph, seconds", "{:.3g}"),
    "replayed_over_eager": ("replayed over eager", "{:.2f}×"),
    "over_flex": ("over FlexAttention", "{:.2f}×"),
    "bytes": ("bytes", "{:.3g}"),
    "literal_bytes": ("the literal form's bytes", "{:.3g}"),
    "rsum": ("rSum", "{:.2f}"),
    "float8_rsum": ("rSum in float8", "{:.2f}"),
    "int8_rsum": ("rSum in int8", "{:.2f}"),
    "error": ("error", "{:.1e}"),
    "pytorch_error": ("PyTorch's error", "{:.1e}"),
}
GPU_ENGINES = ("triton", "cuda")
# What shows that an operator's engine is faster than eager, forward and backward.
GPU_EVIDENCE = {
    "pair_score": ("scan_scoring", "cmsei_scoring", "scan_training", "cmsei_training"),
    "relation_attention": ("spatial_forward", "spatial_both", "semantic_forward", "semantic_both"),
}
NOTHING = "No results yet: `pytest benchmarks/ --benchmark-only --save-results` measures this machine."


def heading(result: dict[str, Any]) -> str:
    """The processor, the versions, and when and of which commit it was measured."""
    about = (
        f"**{result['cpu']}**, {result['threads']} threads, instruction set in use: {result['isa']}; Python "
        f"{result['python']}, torch {result['torch']}; {result['date']}, commit {(result['commit'] or 'unknown')[:12]}"
    )
    return f"{about}{' with local changes' if result['changed_since_commit'] else ''}."


def summary(results: Path = RESULTS) -> str:
    """The text between README's markers: the headlines' medians, a column for each processor, the newest first."""
    found = recent(processors(results))
    if not found:
        return NOTHING
    about = [f"- {result['letter']}: {heading(result)}" for result in found]
    columns = " | ".join(f"{x['letter']}: {machine.short(x['cpu'], x['isa'])}" for x in found)
    lines = [f"| | target | {columns} |", f"|---|---:|{'---:|' * len(found)}"]
    for key, title in RATES.items():
        cells = [_rates(result["rows"].get(key)) for result in found]
        if any(cell != "–" for cell in cells):
            lines.append(f"| {title} | – | {' | '.join(cells)} |")
    for key in HEADLINES:
        cells = [_cell(result["rows"].get(key), ROWS[key].unit) for result in found]
        if any(cell != "–" for cell in cells):
            lines.append(f"| {ROWS[key].title} | {ROWS[key].wanted()} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *about])


def _rates(row: dict[str, Any] | None) -> str:
    """Pairs per second of both sides, each to three digits."""
    if row is None or not {"pairs", "seconds", "other_seconds"} <= row.keys():
        return "–"
    rates = [row["pairs"] / row[side] for side in ("seconds", "other_seconds")]
    return " / ".join(f"{float(f'{rate:.3g}'):,.0f}" for rate in rates)


def _cell(row: dict[str, Any] | None, unit: str) -> str:
    """A median, and whether it misses its target."""
    if row is None or "median" not in row:
        return "–"
    return figure(row["median"], unit) + (" (missed)" if row["verdict"] == "missed" else "")


def section(result: dict[str, Any]) -> str:
    """One processor's heading line and table."""
    lines = [heading(result), "", "| | median | quartiles | target | |", "|---|---:|---:|---:|---|"]
    for key, row in result["rows"].items():
        title = ROWS[key].title if key in ROWS else row["title"]
        if "median" not in row:
            lines.append(f"| {title} | – | | | {row['verdict']} |")
            continue
        unit = row["unit"]
        verdict = "" if row["verdict"] == "no target" else row["verdict"]
        cells = [title, figure(row["median"], unit), extent(row, unit), row["target"], verdict]
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return "\n".join(lines)


def processors(results: Path = RESULTS) -> list[dict[str, Any]]:
    """The contents of the processors' results files, the newest first, each with the letter of its column in README."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))]
    newest_first = sorted(found, key=lambda result: result["date"], reverse=True)
    return [{**result, "letter": chr(ord("A") + i)} for i, result in enumerate(newest_first)]


def recent(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of results, the newest first, those that README shows."""
    dates = [datetime.date.fromisoformat(result["date"]) for result in found]
    return [result for result, date in zip(found, dates, strict=True) if date >= dates[0] - RECENT]


def render(results: Path = RESULTS) -> str:
    """The text between the markers of docs/speed.md: all processors' tables, the newest first."""
    found = processors(results)
    shown = len(recent(found))
    parts = [*map(section, found[:shown]), *([OLDER] if shown < len(found) else []), *map(section, found[shown:])]
    return "\n\n".join(parts) or NOTHING


def gpu_section(result: dict[str, Any]) -> str:
    """One GPU's heading line and table."""
    tests = result["suite"]
    about = (
        f"**{result['gpu']}** ({result['architecture']}); Python {result['python']}, torch {result['torch']}, triton "
    )
    about += f"{result['triton']}; {tests.get('passed', 0)} tests passed; {result['date']}, commit "
    lines = [f"{about}{(result['commit'] or 'unknown')[:12]}.", "", "| | |", "|---|---|"]
    for key, row in result["rows"].items():
        found = [f"failed: {row['failed']}"] if "failed" in row else []
        for column, (title, form) in GPU_COLUMNS.items():
            value = row.get(column)
            if value is not None:
                found.append(f"{title}: {value if isinstance(value, str) else form.format(value)}")
        lines.append(f"| {key.replace('_', ' ')} | {'; '.join(found)} |")
    return "\n".join(lines)


def _gpu_results(results: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((results / "gpu").glob("*.json"))]


def render_gpu(results: Path = RESULTS) -> str:
    """The text between README's markers of the GPUs' table."""
    return "\n\n".join(map(gpu_section, _gpu_results(results))) or GPU_NOTHING


def verified(results: Path = RESULTS) -> dict[str, dict[str, list[str]]]:
    """{architecture: {operator: engines}}, fastest first: the engine's tests are green, its rows all beat eager's."""
    out: dict[str, dict[str, list[str]]] = {}
    for result in _gpu_results(results):
        green = result["suite"].get("engines", dict.fromkeys(GPU_ENGINES, result["suite"]["green"]))
        for operator, keys in GPU_EVIDENCE.items():
            gains: dict[str, float] = {}
            for engine in GPU_ENGINES:
                over = [result["rows"].get(f"{engine}_{key}", {}).get("over_eager") for key in keys]
                if green.get(engine) and all(isinstance(x, (int, float)) and x > 1 for x in over):
                    gains[engine] = math.prod(over)
            if gains:
                ranked = sorted(gains, key=gains.__getitem__, reverse=True)
                out.setdefault(result["architecture"], {})[operator] = ranked
    return out


def documents() -> dict[Path, str]:
    """What should be in the files that this module writes."""
    readme = replace_table(README.read_text(encoding="utf-8"), summary(), BEGIN, END)
    return {
        README: replace_table(readme, render_gpu(), GPU_BEGIN, GPU_END),
        SPEED: replace_table(SPEED.read_text(encoding="utf-8"), render(), BEGIN, END),
        VERIFIED: json.dumps(verified(), indent=2) + "\n",
    }


def main() -> int:
    """Writes the files, or with --check compares; returns the exit status."""
    wanted = documents()
    if "--check" in sys.argv[1:]:
        old = [path.name for path, text in wanted.items() if path.read_text(encoding="utf-8") != text]
        print(f"{', '.join(old)}: out of date, run python -m benchmarks.table" if old else "up to date")
        return int(bool(old))
    for path, text in wanted.items():
        write(path, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
