"""Charts as SVG, the same bytes for the same numbers; series differ in marks and lines as well as colour."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours that stand out from white, with a mark and a line each.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#595959")
MARKS = ("o", "s", "^", "D", "v", "x")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
_STYLE: Any = {
    "svg.hashsalt": "cmsei_fast",
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "grid.color": "#e2e2e2",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.dpi": 100,
}


@contextmanager
def style() -> Iterator[None]:
    """matplotlib's settings of the charts; making and writing a figure both happen inside."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def panels(columns: int, width: float = 9.0, height: float = 3.0) -> tuple[Figure, list[Axes]]:
    """An empty figure with axes side by side; sizes in inches of 100 pixels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def series_style(i: int) -> dict[str, Any]:
    """Colour, mark and line of the i-th series."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKS[i % len(MARKS)],
        "linestyle": LINES[i % len(LINES)],
        "markersize": 5,
    }


def grouped_bars(axes: Axes, labels: list[str], series: dict[str, list[float]]) -> None:
    """Bars of up to four series beside each other at every label; all series but the first are hatched."""
    bar_width = 0.8 / len(series)
    for i, (name, heights) in zip(count(), series.items(), strict=False):
        positions = [x + (i - (len(series) - 1) / 2) * bar_width for x in range(len(labels))]
        hatch = ("", "///", "...", "xxx")[i % 4]
        axes.bar(
            positions, heights, bar_width, label=name, color=COLOURS[i], hatch=hatch, edgecolor="white", linewidth=0.5
        )
    axes.set_xticks(range(len(labels)), labels)
    axes.grid(visible=False, axis="x")


def svg_bytes(figure: Figure) -> bytes:
    """The figure as SVG without a date."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
