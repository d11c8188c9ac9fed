"""An explanation as one HTML page: pointing at a word highlights the regions that it attends to, and vice versa."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Sequence
from html import escape
from importlib import resources
from typing import Any

import numpy as np

from .canvas import layout
from .explanation import TERM_TITLES, AttentionStep, Explanation
from .html import Html, html, page, table
from .image_file import read_image
from .relation_page import relations_section
from .relations import Relation, relation_text, strongest_relations

_VIEWS = {"t2i": "t2i (α)", "i2t": "i2t (β)", "levels": "cross-level (p, ω)"}
_QUERIES = {"t2i": "each word (t2i),", "i2t": "each region (i2t),"}
_UNKNOWN = "not in the vocabulary of the model"
_NO_NAME = "image"  # to a screen reader
_DIGITS = 5
_MAX_PIXELS = 1600  # of an image's longer side in the page
_MAX_HEIGHT = 36  # of the picture on the page, rem


def save_page(
    explanation: Explanation,
    path: str | os.PathLike[str],
    word: str | int | None = None,
    image: str | os.PathLike[str] | None = None,
    step: int = -1,
    *,
    through_graph: bool = False,
) -> None:
    """Writes one pair as a self-contained HTML page, whole or not at all.

    Args:
        explanation: of the pair.
        path: of the page.
        word: the word, or its index, that the page shows first; None chooses the one with the most uneven attention.
        image: the image's file, which is put into the page; without it the boxes are drawn on an empty canvas.
        step: of the attention that the page shows first, from 0; -1 is the last.
        through_graph: whether the page first shows attention through the graph; without graphs there is no such choice.

    Raises:
        TypeError: ``explanation`` is not an Explanation.
        ValueError: for a word or a step that the explanation does not have, or a file that is not an image.
        ModuleNotFoundError: there is an image, and Pillow is not installed.
        OSError: the directory does not exist or cannot be written.
    """
    if not isinstance(explanation, Explanation):
        raise TypeError(f"explanation: expected an Explanation, got {type(explanation).__name__}")
    word_index = explanation.telling_word() if word is None else explanation.find_word(word)
    step = explanation.find_step(step)
    from ..data.files import check_target, write_text

    check_target(path)
    data_url = None if image is None else _data_url(image)
    write_text(path, _page(explanation, word_index, step, data_url, through_graph))


def _page(explanation: Explanation, word: int, step: int, image: str | None, through_graph: bool) -> str:
    boxes, size = layout(explanation)
    relations = strongest_relations(explanation)
    views = [name for name in ("t2i", "i2t") if getattr(explanation, name)]
    first = views[0] if views else "levels"
    radios = "".join(
        f'<label><input type="radio" name="view" value="{name}"{" checked" if name == first else ""}>'
        f"{html(_VIEWS[name])}</label>"
        for name in (*views, "levels")
    )
    steps = "".join(
        f'<option value="{k}"{" selected" if k == step else ""}>{k + 1}</option>'
        for k in range(max(1, explanation.n_steps))
    )
    graph_choice = _graph_choice(through_graph) if explanation.kept else ""
    queries = " ".join(_QUERIES[view] for view in views)
    name = f"<p>{html(explanation.image)}</p>" if explanation.image else ""
    body = f"""<main>
<header><h1>What made the score {explanation.score:.3f}</h1>{name}</header>
<div id="words" class="words" role="listbox" aria-orientation="horizontal" aria-label="Words of the caption">
{_words(explanation)}</div>
<form class="choices"><fieldset><legend>Attention</legend>{radios}</fieldset>
<label>Step <select id="step">{steps}</select> of {max(1, explanation.n_steps)}</label>{graph_choice}</form>
<p class="hint">Point at a word or a region, or go there by Tab and the arrow keys. The attention of {queries}
the sentence (p) and the image (ω) sums to 100&nbsp;%.</p>
<div class="view"><div>{_draw_picture(explanation, boxes, size, image)}</div>
<div><h2 id="shares-title"></h2><ol id="shares"></ol></div></div>
<p id="announcement" class="hidden" role="status"></p>
<h2>The terms of the score</h2>
{_terms_table(explanation)}
{relations_section(explanation, relations, boxes, size)}
</main>
<script type="application/json" id="pair">{_page_data(explanation, word, boxes, views, relations)}</script>"""
    style, script = (_read_resource(f"explanation_page.{kind}") for kind in ("css", "js"))
    return page(explanation.title, body, style=style, script=script)


def _graph_choice(chosen: bool) -> str:
    parts = []
    for value, name in ((False, "as attended"), (True, "through the graph")):
        checked = " checked" if value == chosen else ""
        parts.append(f'<label><input type="radio" name="through" value="{int(value)}"{checked}>{name}</label>')
    return f"<fieldset><legend>Regions</legend>{''.join(parts)}</fieldset>"


def _read_resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _words(explanation: Explanation) -> str:
    parts = []
    for i, (word, known) in enumerate(zip(explanation.words, explanation.known, strict=True)):
        kind, name, hint = (
            ("word", word, "") if known else ("word unknown", f"{word}, {_UNKNOWN}", f' title="{_UNKNOWN}"')
        )
        parts.append(
            f'<div class="{kind}" role="option" aria-selected="false" tabindex="-1" data-word="{i}" '
            f'data-name="{escape(name)}"{hint}>'
            f'<span class="text">{escape(word)}</span><span class="share"></span></div>\n'
        )
    return "".join(parts)


def _draw_picture(explanation: Explanation, boxes: np.ndarray, size: Sequence[float], image: str | None) -> str:
    """The boxes, the larger ones below; each is an option that can be pointed at and focused."""
    width, height = size
    parts = []
    for i in np.argsort(-(boxes[:, 2:] - boxes[:, :2]).prod(1), kind="stable").tolist():
        x0, y0, x1, y1 = boxes[i].tolist()
        name = escape(f"{explanation.regions[i]} {i}")
        place = f'x="{x0:g}" y="{y0:g}" width="{max(0.0, x1 - x0):g}" height="{max(0.0, y1 - y0):g}"'
        parts.append(
            f'<g class="region" role="option" aria-selected="false" tabindex="-1" data-region="{i}" '
            f'data-name="{name}" aria-label="{name}"><rect class="fill" {place}/><rect class="line" {place}/></g>\n'
        )
    pixels = ""
    if image is not None:
        pixels = f'<image href="{image}" width="{width:g}" height="{height:g}" preserveAspectRatio="none"/>'
    return (
        f'<svg id="picture" class="drawing" role="group" aria-label="{escape(explanation.image or _NO_NAME)}" '
        f'viewBox="0 0 {width:g} {height:g}" style="max-width:{_MAX_HEIGHT * width / height:.1f}rem">{pixels}\n'
        f'<g role="listbox" aria-label="Regions of the image">{"".join(parts)}</g>'
        '<g class="labels" aria-hidden="true"></g></svg>'
    )


def _terms_table(explanation: Explanation) -> Html:
    terms = {term.name: term for term in explanation.terms}
    largest = max((abs(term.contribution) for term in explanation.terms), default=0.0) or 1.0
    rows: list[tuple[object, ...]] = []
    for name, title in TERM_TITLES.items():
        if name not in terms:
            rows.append((title, "none", "", Html("<small>0</small>"), ""))
            continue
        term = terms[name]
        value = html(f"{term.value:.4f}")
        steps: tuple[AttentionStep, ...] = getattr(explanation, name, ())
        if len(steps) > 1:
            value = Html(f"{value}<small>mean of {', '.join(f'{step.score:.4f}' for step in steps)}</small>")
        kind = "bar" if term.contribution >= 0 else "bar negative"
        bar = Html(f'<span class="{kind}" style="width:{100 * abs(term.contribution) / largest:.1f}%"></span>')
        rows.append((title, f"{term.weight:.4f}", value, f"{term.contribution:.4f}", bar))
    rows.append(("score", "", "", f"{explanation.score:.4f}", ""))
    headers = ("", "weight", "value", "weight × value", Html('<span class="hidden">as a bar</span>'))
    return table(headers, rows, kind="terms")


def _page_data(
    explanation: Explanation, word: int, boxes: np.ndarray, views: Sequence[str], relations: Sequence[Relation]
) -> str:
    """JSON for the page's script, with nothing in it that HTML could mistake for a tag."""

    def to_list(x: np.ndarray | None) -> Any:
        return None if x is None else np.round(x, _DIGITS).tolist()

    def steps(name: str) -> list[dict[str, Any]]:
        return [
            {
                "attention": to_list(step.attention if name == "t2i" else step.attention.T),  # (words, regions)
                "relevance": to_list(step.relevance),
                "gate": to_list(step.gate),
            }
            for step in getattr(explanation, name)
        ]

    data = {
        "word": word,
        "words": explanation.words,
        "regions": explanation.regions,
        "boxes": to_list(boxes),
        "views": {name: steps(name) for name in views},
        "word_weights": to_list(explanation.word_weights),
        "region_weights": to_list(explanation.region_weights),
        # From each layer on, (final states, regions); the identity that follows the last layer is left out.
        "rollouts": [to_list(explanation.rollout(k)) for k in range(len(explanation.kept))],
        "relations": [
            {
                "text": relation_text(explanation, relation),
                "edges": [(e.layer, e.region, round(e.share, _DIGITS)) for e in relation.edges],
            }
            for relation in (relations if explanation.kept else ())
        ],
    }
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _data_url(image: str | os.PathLike[str]) -> str:
    """The image as a data URL, scaled down if it is large."""
    pixels = read_image(image)
    from PIL import Image

    thumbnail = Image.fromarray(pixels)
    thumbnail.thumbnail((_MAX_PIXELS, _MAX_PIXELS))
    buffer = io.BytesIO()
    thumbnail.save(buffer, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
