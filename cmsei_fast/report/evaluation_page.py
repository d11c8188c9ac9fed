"""The report of an evaluation: one HTML page of recalls, ranks, the worst and best queries, and the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..retrieval.metrics import LEVELS, DirectionMetrics, RecallMetrics
from .bootstrap import SAMPLES, Interval, recall_intervals
from .drawings import Drawings
from .evaluation_charts import histogram, training_curves
from .html import Html, html, page, table
from .queries import Candidate, Extremes, Query, extremes
from .run_files import Run

DIRECTIONS = {"i2t": "image to text", "t2i": "text to image"}
_STYLE = """
small { color: var(--quiet); }
td small { display: block; }
section { margin-top: 2.5rem; }
.query { border-top: 1px solid var(--line); padding: .8rem 0; }
.query h4 { margin: 0 0 .5rem; font-weight: 600; }
.side { display: flex; flex-wrap: wrap; gap: 1rem 1.5rem; align-items: flex-start; }
.side > div { flex: 1 1 18rem; }
.chart img { min-width: 40rem; background: #fff; }
@media (prefers-color-scheme: dark) { .chart img { filter: invert(.9) hue-rotate(180deg); } }
.side ol { margin: 0; padding-left: 1.5rem; }
figure.own { border: 3px solid var(--ink); padding: calc(.5rem - 2px); }
figcaption { overflow-wrap: anywhere; }
.side figcaption { max-width: 12.5rem; }
td small { white-space: nowrap; }
@media (max-width: 40rem) { td small { white-space: normal; } }
.settings td { overflow-wrap: anywhere; max-width: 50rem; text-align: left; }
details { margin: .5rem 0; }
@media (max-width: 40rem) {
  .recalls :is(th, td) { padding: .3rem .15rem; font-size: .8rem; }
  .recalls small { font-size: .68rem; }
}
"""


@dataclass(frozen=True)
class Evaluation:
    """What the report shows.

    Args:
        title: of the page.
        scores: (n_image, n_caption) floating, an array or a memmap.
        metrics: of the scores.
        caption_to_image: (n_caption,) int64.
        captions: their texts; None shows numbers.
        drawings: of the images.
        about: facts about what was evaluated and how, by name.
        run: the training run of the model; None leaves curves and configuration out.
        scorer: the learned score, ``PairScorer.to_dict()``.
        seed: seed of the bootstrap.
        shown: how many of the worst and of the best queries of each direction are shown.
    """

    title: str
    scores: Any
    metrics: RecallMetrics
    caption_to_image: np.ndarray
    captions: Sequence[str] | None
    drawings: Drawings
    about: Mapping[str, Any]
    run: Run | None = None
    scorer: Mapping[str, Any] | None = None
    seed: int = 0
    shown: int = 5


def evaluation_page(evaluation: Evaluation) -> str:
    """The page's text, with no address outside it."""
    intervals = recall_intervals(evaluation.metrics, evaluation.caption_to_image, seed=evaluation.seed)
    images, captions = extremes(
        evaluation.scores, evaluation.metrics, evaluation.caption_to_image, count=evaluation.shown
    )
    n_image, n_caption = evaluation.scores.shape
    folds = evaluation.metrics.folds
    folds_note = "" if folds == 1 else f" Means over {folds} folds of {n_image // folds:,} images."
    parts = [
        f"<h1>{html(evaluation.title)}</h1>",
        f"<p>{_count(n_image, 'image')}, {_count(n_caption, 'caption')}.{folds_note}</p>",
        recall_table(evaluation.metrics, intervals),
        f"<p><small>Recalls in percent; a tie counts as half a rank. Below each figure its 95 % interval: "
        f"{SAMPLES:,} times as many images drawn with replacement, each with its captions (seed {evaluation.seed}); "
        "the candidates stay the same.</small></p>",
        f'<section><h2>Ranks</h2><div class="scroll chart">{histogram(evaluation.metrics)}</div></section>',
        _section("Image to text: images as queries", images, evaluation, _image_query),
        _section("Text to image: captions as queries", captions, evaluation, _caption_query),
    ]
    if evaluation.run is not None:
        parts.append(
            f'<section><h2>Training</h2><div class="scroll chart">{training_curves(evaluation.run)}</div></section>'
        )
    parts.append(f"<section><h2>Configuration</h2>{_configuration(evaluation)}</section>")
    return page(evaluation.title, "\n".join(parts), style=_STYLE)


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def recall_table(metrics: RecallMetrics, intervals: Mapping[str, Interval]) -> Html:
    """Recalls, ranks and rSum with the intervals below them."""

    def cell(value: float, name: str) -> Html:
        interval = intervals[name]
        return Html(f"{value:.1f}<small>{interval.low:.1f}–{interval.high:.1f}</small>")

    def row(key: str, d: DirectionMetrics) -> list[object]:
        recalls = zip((d.r1, d.r5, d.r10), LEVELS, strict=True)
        cells = [cell(value, f"{key} R@{level}") for value, level in recalls]
        return [DIRECTIONS[key], *cells, f"{d.median_rank:.1f}", cell(d.mean_rank, f"{key} mean rank")]

    headers = ("", *(f"R@{level}" for level in LEVELS), "median rank", "mean rank")
    rsum: list[object] = ["rSum", cell(metrics.rsum, "rSum"), "", "", "", ""]
    return table(headers, [row("i2t", metrics.i2t), row("t2i", metrics.t2i), rsum], kind="recalls")


def _section(heading: str, examples: Extremes, evaluation: Evaluation, show: Any) -> str:
    parts = [f"<section><h2>{heading}</h2>"]
    for title, queries in (("Worst", examples.worst), ("Best", examples.best)):
        if queries:
            parts.append(f"<h3>{title}</h3>")
            parts += [f'<div class="query">{show(query, evaluation)}</div>' for query in queries]
    return "\n".join([*parts, "</section>"])


def _image_query(query: Query, evaluation: Evaluation) -> str:
    name = html(evaluation.drawings.name(query.index))
    items = "".join(
        f"<li>{_mark_own(candidate, html(_caption_text(evaluation, candidate.index)))}</li>" for candidate in query.top
    )
    own_best = ""
    if not any(candidate.own for candidate in query.top):
        own_best = (
            f"<p>Its own best, at rank {query.rank:g}: <b>{html(_caption_text(evaluation, query.own.index))}</b> "
            f"{_format_score(query.own)}</p>"
        )
    figure = f"<figure>{evaluation.drawings.draw(query.index)}<figcaption>{name}</figcaption></figure>"
    return f'<h4>{name}, rank {query.rank:g}</h4><div class="side">{figure}<div><ol>{items}</ol>{own_best}</div></div>'


def _caption_query(query: Query, evaluation: Evaluation) -> str:
    sentence = "" if evaluation.captions is None else evaluation.captions[query.index]
    figures = [
        _figure(candidate, f"{position}.", evaluation, sentence)
        for position, candidate in enumerate(query.top, start=1)
    ]
    if not any(candidate.own for candidate in query.top):
        figures.append(_figure(query.own, f"rank {query.rank:g}:", evaluation, sentence))
    text = html(_caption_text(evaluation, query.index))
    return f'<h4>{text}, rank {query.rank:g}</h4><div class="gallery">{"".join(figures)}</div>'


def _figure(candidate: Candidate, label: str, evaluation: Evaluation, sentence: str) -> str:
    name = html(evaluation.drawings.name(candidate.index))
    text = f"{label} {_mark_own(candidate, name)}"
    kind = ' class="own"' if candidate.own else ""
    return (
        f"<figure{kind}>{evaluation.drawings.draw(candidate.index, sentence)}<figcaption>{text}</figcaption></figure>"
    )


def _mark_own(candidate: Candidate, text: str) -> str:
    return f"<b>✓ own: {text}</b> {_format_score(candidate)}" if candidate.own else f"{text} {_format_score(candidate)}"


def _format_score(candidate: Candidate) -> str:
    return f"<small>{candidate.score:#.4g}</small>"


def _caption_text(evaluation: Evaluation, j: int) -> str:
    if evaluation.captions is None:
        return f"caption {j}"
    return f"“{evaluation.captions[j]}”" if evaluation.captions[j].strip() else f"caption {j} (empty)"


def _configuration(evaluation: Evaluation) -> str:
    parts: list[str] = [table((), evaluation.about.items(), kind="settings")]
    if evaluation.scorer is not None:
        parts.append(_collapsible("The score, as learned", evaluation.scorer))
    if evaluation.run is not None:
        parts += [_collapsible(f"{name} configuration", values) for name, values in evaluation.run.config.items()]
    return "\n".join(parts)


def _collapsible(title: str, values: Mapping[str, Any]) -> str:
    rows = [(name, _format_value(value)) for name, value in values.items()]
    return f"<details><summary>{html(title.capitalize())}</summary>{table((), rows, kind='settings')}</details>"


def _format_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_format_value(x)}" for name, x in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_format_value, value)) or "none"
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
