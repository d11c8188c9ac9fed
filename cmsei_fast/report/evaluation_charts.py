"""The charts of an evaluation's report."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from ..retrieval.metrics import RecallMetrics
from . import charts
from .html import Html, picture
from .run_files import Run

_EDGES = (1, 2, 5, 10, 20, 50)  # then ten times as much, and so on
_POINTS = 300  # of a curve, at most
_SVG = "image/svg+xml"
# Curves of the validations: name, and the number in a record's metrics.
_VALIDATED = {
    "rSum / 6": lambda found: found["rSum"] / 6,
    "i2t R@1": lambda found: found["i2t"]["R@1"],
    "t2i R@1": lambda found: found["t2i"]["R@1"],
}


def rank_bins(ranks: np.ndarray) -> tuple[list[str], list[float]]:
    """Names of the bins and the percentage of ranks (n,) in each; NaN, a query that asks nothing, counts nowhere.

    A bin ``3–5`` holds ranks above 2 and up to 5: what recalls count, so that the first bin is R@1.
    """
    ranks = ranks[~np.isnan(ranks)]
    edges = [0.0]
    while edges[-1] < ranks.max():
        k = len(edges) - 1
        edges.append(_EDGES[k] if k < 3 else _EDGES[k % 3] * 10.0 ** (k // 3))
    counts = [np.count_nonzero((ranks > low) & (ranks <= high)) for low, high in itertools.pairwise(edges)]
    names = [_bin(int(low) + 1, int(high)) for low, high in itertools.pairwise(edges)]
    return names, [100 * x / len(ranks) for x in counts]


def _bin(low: int, high: int) -> str:
    return str(high) if low == high else f"{_short(low)}–{_short(high)}"


def _short(x: int) -> str:
    return f"{x // 1000}k" if x >= 1000 and x % 1000 == 0 else str(x)


def histogram(metrics: RecallMetrics) -> Html:
    """How often each rank occurs, both directions beside each other."""
    found = {"image to text": rank_bins(metrics.i2t.ranks), "text to image": rank_bins(metrics.t2i.ranks)}
    names = max((bins for bins, _ in found.values()), key=len)
    series = {name: [*heights, *[0.0] * (len(names) - len(heights))] for name, (_, heights) in found.items()}
    with charts.style():
        figure, (axes,) = charts.panels(1)
        charts.grouped_bars(axes, names, series)
        axes.set(xlabel="rank of the query's own", ylabel="queries, %")
        axes.tick_params(axis="x", labelsize=8)
        axes.legend()
        told = "; ".join(
            f"{name}: " + ", ".join(f"rank {b} {h:.1f} %" for b, h in zip(names, heights, strict=True))
            for name, heights in series.items()
        )
        return picture(charts.svg_bytes(figure), _SVG, f"Histogram of ranks. {told}", width=900)


def training_curves(run: Run) -> Html:
    """Loss and learning rate of each step, and recalls of each validation where there are some."""
    steps, loss = _series(run.steps, "loss")
    at, rate = _series(run.steps, "learning_rate")
    told = f"Loss from {loss[0]:.3g} to {loss[-1]:.3g} in {run.steps[-1]['step']:,} steps."
    with charts.style():
        figure, axes = charts.panels(3 if run.validations else 2)
        where, mean, low, high = thinned(steps, loss)
        axes[0].plot(where, mean, color=charts.COLOURS[0])
        if low is not None and high is not None:
            axes[0].fill_between(where, low, high, color=charts.COLOURS[0], alpha=0.2, linewidth=0)
        axes[0].set(title="loss", xlabel="step")
        axes[1].plot(*thinned(at, rate)[:2], color=charts.COLOURS[0])
        axes[1].set(title="learning rate", xlabel="step")
        axes[1].ticklabel_format(axis="y", scilimits=(-2, 3))
        if run.validations:
            epochs = [record["epoch"] + 1 for record in run.validations]
            for i, (name, pick) in enumerate(_VALIDATED.items()):
                values = [pick(record["validation"]) for record in run.validations]
                axes[2].plot(epochs, values, label=name, **charts.look(i))
                told += f" {name} from {values[0]:.1f} to {values[-1]:.1f}."
            axes[2].set(title="validation, %", xlabel="epoch")
            axes[2].locator_params(axis="x", integer=True)
            axes[2].legend()
        curves = picture(charts.svg_bytes(figure), _SVG, f"Training curves. {told}", width=900)
    without = "" if run.validations else "<p>Nothing was validated while training.</p>"
    return Html(curves + without)


def _series(records: list[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(record["step"], float(record[name])) for record in records if name in record]
    return np.array([s for s, _ in pairs], dtype=float), np.array([x for _, x in pairs])


def thinned(
    steps: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Steps (n,) and values (n,); of more than ``_POINTS`` the means of equal runs, and their quartiles."""
    if len(steps) <= _POINTS:
        return steps, values, None, None
    runs = np.array_split(np.arange(len(steps)), _POINTS)
    low, high = (np.array([np.quantile(values[r], q) for r in runs]) for q in (0.25, 0.75))
    return np.array([steps[r].mean() for r in runs]), np.array([values[r].mean() for r in runs]), low, high
