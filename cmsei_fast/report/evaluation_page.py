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
from .queries import Extremes, Found, Query, extremes
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
    """What is reported.

    Args:
        title: of the page.
        scores: (n_image, n_caption) floating, an array or a memmap.
        metrics: of the scores.
        caption_to_image: (n_caption,) int64.
        captions: their texts; None shows numbers.
        drawings: of the images.
        about: name and value of what was evaluated, and how.
        run: the training behind it; None leaves curves and configuration out.
        scorer: the score that was learned, ``PairScorer.to_dict()``.
        seed: of the bootstrap.
        shown: worst and best queries of each direction.
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


def evaluation_page(what: Evaluation) -> str:
    """The page's text, with no address outside it."""
    intervals = recall_intervals(what.metrics, what.caption_to_image, seed=what.seed)
    images, captions = extremes(what.scores, what.metrics, what.caption_to_image, count=what.shown)
    n_image, n_caption = what.scores.shape
    folds = what.metrics.folds
    means = "" if folds == 1 else f" Means over {folds} folds of {n_image // folds:,} images."
    parts = [
        f"<h1>{html(what.title)}</h1>",
        f"<p>{_count(n_image, 'image')}, {_count(n_caption, 'caption')}.{means}</p>",
        recall_table(what.metrics, intervals),
        f"<p><small>Recalls in percent; a tie counts as half a rank. Below each figure its 95 % interval: "
        f"{SAMPLES:,} times as many images drawn with replacement, each with its captions (seed {what.seed}); "
        "the candidates stay the same.</small></p>",
        f'<section><h2>Ranks</h2><div class="scroll chart">{histogram(what.metrics)}</div></section>',
        _section("Images that ask for captions", images, what, _image_query),
        _section("Captions that ask for their image", captions, what, _caption_query),
    ]
    if what.run is not None:
        parts.append(f'<section><h2>Training</h2><div class="scroll chart">{training_curves(what.run)}</div></section>')
    parts.append(f"<section><h2>Configuration</h2>{_configuration(what)}</section>")
    return page(what.title, "\n".join(parts), style=_STYLE)


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def recall_table(metrics: RecallMetrics, intervals: Mapping[str, Interval]) -> Html:
    """Recalls, ranks and rSum with the intervals below them."""

    def cell(value: float, name: str) -> Html:
        at = intervals[name]
        return Html(f"{value:.1f}<small>{at.low:.1f}–{at.high:.1f}</small>")

    def row(key: str, d: DirectionMetrics) -> list[object]:
        recalls = zip((d.r1, d.r5, d.r10), LEVELS, strict=True)
        cells = [cell(value, f"{key} R@{level}") for value, level in recalls]
        return [DIRECTIONS[key], *cells, f"{d.median_rank:.1f}", cell(d.mean_rank, f"{key} mean rank")]

    heads = ("", *(f"R@{level}" for level in LEVELS), "median rank", "mean rank")
    rsum: list[object] = ["rSum", cell(metrics.rsum, "rSum"), "", "", "", ""]
    return table(heads, [row("i2t", metrics.i2t), row("t2i", metrics.t2i), rsum], kind="recalls")


def _section(heading: str, found: Extremes, what: Evaluation, show: Any) -> str:
    parts = [f"<section><h2>{heading}</h2>"]
    for title, queries in (("Worst", found.worst), ("Best", found.best)):
        if queries:
            parts.append(f"<h3>{title}</h3>")
            parts += [f'<div class="query">{show(query, what)}</div>' for query in queries]
    return "\n".join([*parts, "</section>"])


def _image_query(query: Query, what: Evaluation) -> str:
    name = html(what.drawings.name(query.index))
    items = "".join(f"<li>{_marked(found, html(_caption(what, found.index)))}</li>" for found in query.top)
    missed = ""
    if not any(found.own for found in query.top):
        missed = (
            f"<p>Its own best, at rank {query.rank:g}: <b>{html(_caption(what, query.own.index))}</b> "
            f"{_score(query.own)}</p>"
        )
    figure = f"<figure>{what.drawings.draw(query.index)}<figcaption>{name}</figcaption></figure>"
    return f'<h4>{name}, rank {query.rank:g}</h4><div class="side">{figure}<div><ol>{items}</ol>{missed}</div></div>'


def _caption_query(query: Query, what: Evaluation) -> str:
    sentence = "" if what.captions is None else what.captions[query.index]
    figures = [_figure(found, f"{place}.", what, sentence) for place, found in enumerate(query.top, start=1)]
    if not any(found.own for found in query.top):
        figures.append(_figure(query.own, f"rank {query.rank:g}:", what, sentence))
    text = html(_caption(what, query.index))
    return f'<h4>{text}, rank {query.rank:g}</h4><div class="gallery">{"".join(figures)}</div>'


def _figure(found: Found, place: str, what: Evaluation, sentence: str) -> str:
    name = html(what.drawings.name(found.index))
    text = f"{place} {_marked(found, name)}"
    kind = ' class="own"' if found.own else ""
    return f"<figure{kind}>{what.drawings.draw(found.index, sentence)}<figcaption>{text}</figcaption></figure>"


def _marked(found: Found, text: str) -> str:
    return f"<b>✓ own: {text}</b> {_score(found)}" if found.own else f"{text} {_score(found)}"


def _score(found: Found) -> str:
    return f"<small>{found.score:#.4g}</small>"


def _caption(what: Evaluation, j: int) -> str:
    if what.captions is None:
        return f"caption {j}"
    return f"“{what.captions[j]}”" if what.captions[j].strip() else f"caption {j} (empty)"


def _configuration(what: Evaluation) -> str:
    parts: list[str] = [table((), what.about.items(), kind="settings")]
    if what.scorer is not None:
        parts.append(_folded("The score, as learned", what.scorer))
    if what.run is not None:
        parts += [_folded(f"{name} configuration", values) for name, values in what.run.config.items()]
    return "\n".join(parts)


def _folded(title: str, values: Mapping[str, Any]) -> str:
    rows = [(name, _plain(value)) for name, value in values.items()]
    return f"<details><summary>{html(title.capitalize())}</summary>{table((), rows, kind='settings')}</details>"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(x)}" for name, x in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value)) or "none"
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
