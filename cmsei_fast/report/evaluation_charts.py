"""The charts of an evaluation's report."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from ..retrieval.metrics import RecallMetrics
from . import charts
from .html import Html, picture
from .run_files import Run

_EDGES = (1, 2, 5, 10, 20, 50)  # continued by 100, 200, 500 and so on
_MAX_POINTS = 300  # of a curve, at most
_SVG = "image/svg+xml"
# Curves over the validations: by name, how to read a value from the metrics of a record.
_VALIDATION_CURVES = {
    "rSum / 6": lambda metrics: metrics["rSum"] / 6,
    "i2t R@1": lambda metrics: metrics["i2t"]["R@1"],
    "t2i R@1": lambda metrics: metrics["t2i"]["R@1"],
}


def rank_bins(ranks: np.ndarray) -> tuple[list[str], list[float]]:
    """Names of the bins and the percentage of ranks (n,) in each; NaN (an image without a caption) is left out.

    A bin ``3–5`` holds ranks above 2 and up to 5, so that a recall is a sum of bins: the first bin is R@1.
    """
    ranks = ranks[~np.isnan(ranks)]
    edges = [0.0]
    while edges[-1] < ranks.max():
        n = len(edges) - 1
        edges.append(_EDGES[n] if n < 3 else _EDGES[n % 3] * 10.0 ** (n // 3))
    counts = [np.count_nonzero((ranks > low) & (ranks <= high)) for low, high in itertools.pairwise(edges)]
    names = [_bin_name(int(low) + 1, int(high)) for low, high in itertools.pairwise(edges)]
    return names, [100 * x / len(ranks) for x in counts]


def _bin_name(low: int, high: int) -> str:
    return str(high) if low == high else f"{_short_number(low)}–{_short_number(high)}"


def _short_number(number: int) -> str:
    return f"{number // 1000}k" if number >= 1000 and number % 1000 == 0 else str(number)


def histogram(metrics: RecallMetrics) -> Html:
    """A histogram of the ranks, both directions beside each other."""
    bins_by_direction = {"image to text": rank_bins(metrics.i2t.ranks), "text to image": rank_bins(metrics.t2i.ranks)}
    names = max((bins for bins, _ in bins_by_direction.values()), key=len)
    series = {
        name: [*heights, *[0.0] * (len(names) - len(heights))] for name, (_, heights) in bins_by_direction.items()
    }
    with charts.style():
        figure, (axes,) = charts.panels(1)
        charts.grouped_bars(axes, names, series)
        axes.set(xlabel="rank of the query's own", ylabel="queries, %")
        axes.tick_params(axis="x", labelsize=8)
        axes.legend()
        description = "; ".join(
            f"{name}: "
            + ", ".join(
                f"rank {bin_name} {percentage:.1f} %" for bin_name, percentage in zip(names, heights, strict=True)
            )
            for name, heights in series.items()
        )
        return picture(charts.svg_bytes(figure), _SVG, f"Histogram of ranks. {description}", width=900)


def training_curves(run: Run) -> Html:
    """Loss and learning rate of each step, and recalls of each validation where there are some."""
    steps, loss = _series(run.steps, "loss")
    rate_steps, rate = _series(run.steps, "learning_rate")
    description = f"Loss from {loss[0]:.3g} to {loss[-1]:.3g} in {run.steps[-1]['step']:,} steps."
    with charts.style():
        figure, axes = charts.panels(3 if run.validations else 2)
        shown_steps, mean, low, high = thin_out(steps, loss)
        axes[0].plot(shown_steps, mean, color=charts.COLOURS[0])
        if low is not None and high is not None:
            axes[0].fill_between(shown_steps, low, high, color=charts.COLOURS[0], alpha=0.2, linewidth=0)
        axes[0].set(title="loss", xlabel="step")
        axes[1].plot(*thin_out(rate_steps, rate)[:2], color=charts.COLOURS[0])
        axes[1].set(title="learning rate", xlabel="step")
        axes[1].ticklabel_format(axis="y", scilimits=(-2, 3))
        if run.validations:
            epochs = [record["epoch"] + 1 for record in run.validations]
            for i, (name, pick_value) in enumerate(_VALIDATION_CURVES.items()):
                values = [pick_value(record["validation"]) for record in run.validations]
                axes[2].plot(epochs, values, label=name, **charts.series_style(i))
                description += f" {name} from {values[0]:.1f} to {values[-1]:.1f}."
            axes[2].set(title="validation, %", xlabel="epoch")
            axes[2].locator_params(axis="x", integer=True)
            axes[2].legend()
        curves = picture(charts.svg_bytes(figure), _SVG, f"Training curves. {description}", width=900)
    note = "" if run.validations else "<p>Nothing was validated while training.</p>"
    return Html(curves + note)


def _series(records: list[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(record["step"], float(record[name])) for record in records if name in record]
    return np.array([step for step, _ in pairs], dtype=float), np.array([value for _, value in pairs])


def thin_out(
    steps: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Steps (n,) and values (n,) to plot, and the values' lower and upper quartiles.

    More than ``_MAX_POINTS`` are cut into that many equal runs, of which the means and quartiles are given; fewer are
    given as they are, without quartiles.
    """
    if len(steps) <= _MAX_POINTS:
        return steps, values, None, None
    runs = np.array_split(np.arange(len(steps)), _MAX_POINTS)
    low, high = (np.array([np.quantile(values[r], q) for r in runs]) for q in (0.25, 0.75))
    return np.array([steps[r].mean() for r in runs]), np.array([values[r].mean() for r in runs]), low, high
