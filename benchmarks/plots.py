"""README's plots, made from the results files: ``python -m benchmarks.plots`` writes them and README's links to them.

With ``--check`` nothing is written, and the exit status says whether all of it is up to date. A plot is left out if no
results file has its numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.pages import RESULTS, ROOT, replace_table, write
from benchmarks.table import README, processors, recent
from cmsei_fast.report import charts
from cmsei_fast.report.extras import require

PLOTS = ROOT / "docs" / "plots"
BEGIN, END = "<!-- plots: made by python -m benchmarks.plots -->", "<!-- end of plots -->"
OVER_FIELD = {
    "scan_field_fp32": "SCAN t2i\nfp32",
    "scan_field_bf16": "SCAN t2i\nbf16",
    "scan_i2t_field_fp32": "SCAN i2t\nfp32",
    "cmsei_field_fp32": "CMSEI\nfp32",
}
OVER_PRODUCT = {"scan_mm_fp32": "SCAN t2i\nfp32", "scan_mm_bf16": "SCAN t2i\nbf16"}
Results = list[dict[str, Any]]


def short(result: dict[str, Any]) -> str:
    """A processor and its instruction set in a few words, after its letter in README's table."""
    return f"{result['letter']}: {machine.short(result['cpu'], result['isa'])}"


def _having(results: Results, *keys: str) -> Results:
    return [result for result in results if all("median" in result["rows"].get(key, {}) for key in keys)]


def scale_plot(results: Results) -> bytes | None:
    """Time per pair and memory beyond the features and the matrix, from few pairs to many."""
    found = _having(results, "scale_time", "scale_memory")
    if not found:
        return None
    figure, (time, memory) = charts.panels(2, height=3.3)
    for i, result in enumerate(found):
        row, label = result["rows"]["scale_time"], short(result)
        time.plot(row["pairs"], row["microseconds_per_pair"], label=label, **charts.series_style(i))
        row = result["rows"]["scale_memory"]
        memory.plot(row["pairs"], [x / 1e6 for x in row["bytes"]], label=label, **charts.series_style(i))
    time.set(title="time per pair, µs", xlabel="pairs", xscale="log")
    memory.set(title="memory beyond features and scores, MB", xlabel="pairs", xscale="log")
    for axes in (time, memory):
        axes.set_ylim(0, 1.08 * axes.dataLim.y1)
    figure.legend(*time.get_legend_handles_labels(), loc="outside lower center", ncols=len(found))
    return charts.svg_bytes(figure)


def times(x: float) -> str:
    """Formats a ratio with two digits, or all digits before the point."""
    return f"{x:.0f}" if x >= 9.95 else f"{x:#.2g}"


def speed_plot(results: Results) -> bytes | None:
    """How many times faster than the field's code, and than the bare product; the quartiles as whiskers."""
    found = _having(results, *OVER_FIELD, *OVER_PRODUCT)
    if not found:
        return None
    figure, both = charts.panels(2, height=3.4)
    for axes, keys in zip(both, (OVER_FIELD, OVER_PRODUCT), strict=True):
        for i, result in enumerate(found):
            rows = [result["rows"][key] for key in keys]
            places = [k + (i - (len(found) - 1) / 2) * 0.8 / len(found) for k in range(len(keys))]
            style = {**charts.series_style(i), "linestyle": ""}
            axes.plot(places, [row["median"] for row in rows], label=short(result), **style)
            for row, x in zip(rows, places, strict=True):
                axes.vlines(x, row["q1"], row["q3"], color=style["color"], linewidth=1.2)
                text, above = times(row["median"]), {"xytext": (0, 6), "textcoords": "offset points"}
                white = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}
                axes.annotate(text, (x, row["q3"]), ha="center", fontsize=8, bbox=white, **above)
        axes.set_xticks(range(len(keys)), list(keys.values()))
        axes.set_xlim(-0.6, len(keys) - 0.4)
        axes.axhline(1, color="#1b1b1b", linewidth=1, linestyle="--")
    both[0].set(title="times as fast as the field's code", yscale="log")
    both[1].set(title="times as fast as the bare torch.mm (dashed: 1)", yscale="log")
    ticks = {0: (1, 3, 10, 30, 100), 1: (0.5, 1, 2, 4)}
    for i, axes in enumerate(both):
        axes.set_yticks(ticks[i], [f"{x:g}" for x in ticks[i]])
        axes.minorticks_off()
    low, high = both[1].get_ylim()
    both[1].set_ylim(min(low, 0.5), max(high, 4))
    both[0].set_ylim(0.8, 1.3 * max(both[0].get_ylim()[1], 150))
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(found))
    return charts.svg_bytes(figure)


def accuracy_plot(results: Results) -> bytes | None:
    """Largest error of a score against the time of a pair, for each precision."""
    found = _having(results, "accuracy")
    if not found:
        return None
    figure, (axes,) = charts.panels(1, width=6.0)
    for i, result in enumerate(found):
        points = result["rows"]["accuracy"]["precisions"]
        times, errors = [p["microseconds_per_pair"] for p in points.values()], [p["error"] for p in points.values()]
        axes.plot(times, errors, label=short(result), **{**charts.series_style(i), "linestyle": ""})
        for name, x, y in zip(points, times, errors, strict=True):
            axes.annotate(name, (x, y), (6, 4), textcoords="offset points", fontsize=8)
    axes.set(title="largest error of a score", xlabel="time per pair, µs", yscale="log")
    axes.margins(0.15)
    axes.set_xlim(0, 1.15 * axes.dataLim.x1)  # the last point's name
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(found))
    return charts.svg_bytes(figure)


# File name: what it shows for those who cannot see it, and how it is made.
ALL: dict[str, tuple[str, Callable[[Results], bytes | None]]] = {
    "speed.svg": ("Points: speed over the field's code and over a bare matrix product, by processor", speed_plot),
    "scale.svg": ("Lines: time per pair and memory against the number of pairs, for each processor", scale_plot),
    "accuracy.svg": ("Points: largest error of a score against time per pair, for each precision", accuracy_plot),
}


def render(results: Path = RESULTS) -> dict[str, bytes]:
    """The plots that the results files have the numbers for, by file name."""
    found = recent(processors(results))
    with charts.style():
        made = {name: make(found) for name, (_, make) in ALL.items()}
    return {name: content for name, content in made.items() if content is not None}


def links(names: list[str]) -> str:
    """README's lines that show the plots."""
    return "\n\n".join(f"![{ALL[name][0]}](docs/plots/{name})" for name in names)


def main() -> int:
    """Writes the plots, or with --check compares; returns the exit status."""
    require("plots")
    made = render()
    old = README.read_text(encoding="utf-8")
    new = replace_table(old, links(list(made)), BEGIN, END)
    if "--check" in sys.argv[1:]:
        there = {path.name: path.read_bytes() for path in PLOTS.glob("*.svg") if path.name in ALL}
        same = old == new and there == made
        print("the plots are up to date" if same else "the plots are out of date: run python -m benchmarks.plots")
        return int(not same)
    PLOTS.mkdir(exist_ok=True)
    for name in ALL:
        if name in made:
            write(PLOTS / name, made[name])
        else:
            (PLOTS / name).unlink(missing_ok=True)
    write(README, new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
