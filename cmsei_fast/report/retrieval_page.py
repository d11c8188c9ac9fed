"""The page of a retrieval: for each sentence the images found, for each image the captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..data.lexical import tokenize
from ..data.vocabulary import SPECIAL, UNKNOWN
from .drawings import Drawings
from .html import Html, html, page

_STYLE = """
section { border-top: 1px solid var(--line); padding: .8rem 0; }
small, .unknown { color: var(--quiet); }
:is(h1, h2, p, figcaption, li) { overflow-wrap: anywhere; }
.side { display: flex; flex-wrap: wrap; gap: 1rem 1.5rem; align-items: flex-start; }
.side > div { flex: 1 1 18rem; }
.side ol { margin: 0; padding-left: 1.5rem; }
"""


def retrieval_page(results: Mapping[str, Any], drawings: Drawings) -> str:
    """The page's text, with no address outside it.

    Args:
        results: what ``cmsei-fast retrieve --out`` writes.
        drawings: of the split's images.
    """
    title = f"Retrieval from {results['path']}"
    models = (
        f"<p>By {html(' + '.join(results['model']))}; "
        f"scores by {html(results['engine'])}, {html(results['precision'])}.</p>"
    )
    parts = [f"<h1>{html(title)}</h1>", models]
    parts += [_sentence_section(query, drawings) for query in results.get("captions", ())]
    parts += [_image_section(query, drawings) for query in results.get("images", ())]
    return page(title, "\n".join(parts), style=_STYLE)


def unknown_words(query: Mapping[str, Any]) -> list[str]:
    """For each model that does not know all words of a sentence, which; its encoder reads them all as one."""
    return [
        f"{name} finds no word in it and reads one unknown word"
        if words == [SPECIAL[UNKNOWN]]
        else f"{name} reads as unknown: {', '.join(words)}"
        for name, words in query["unknown"].items()
    ]


def closest_first(sentence: str, captions: Sequence[str]) -> list[str]:
    """An image's captions: a sentence itself first, then those that share the largest part of their words with it."""
    words = set(tokenize(sentence))
    shares = [
        len(words & caption_words) / max(1, len(words | caption_words))
        for caption_words in (set(tokenize(x)) for x in captions)
    ]
    return [captions[i] for i in sorted(range(len(captions)), key=lambda i: (captions[i] != sentence, -shares[i]))]


def _sentence_section(query: Mapping[str, Any], drawings: Drawings) -> str:
    unknown = "".join(f'<p class="unknown">{html(line)}</p>' for line in unknown_words(query))
    figures = "".join(
        f"<figure>{drawings.draw(x['image'], query['caption'])}<figcaption>{x['rank']}. {html(x['name'])} {_score(x)}"
        f"{_own_mark(x)}{_captions(closest_first(query['caption'], x['captions']))}</figcaption></figure>"
        for x in query["images"]
    )
    return f'<section><h2>“{html(query["caption"])}”</h2>{unknown}<div class="gallery">{figures}</div></section>'


def _own_mark(item: Mapping[str, Any]) -> str:
    return " <b>✓ own</b>" if item.get("own") else ""


def _captions(captions: list[str]) -> str:
    """The closest caption, and the others in a list that can be unfolded."""
    shown, others = captions[:1], captions[1:]
    more = (
        f"<details><summary>{len(others)} more</summary>{''.join(map(_caption_line, others))}</details>"
        if others
        else ""
    )
    return "".join(map(_caption_line, shown)) + more


def _caption_line(caption: str) -> str:
    return f"<div>{html(caption)}</div>"


def _image_section(query: Mapping[str, Any], drawings: Drawings) -> str:
    name = html(query["name"])
    items = "".join(f"<li>{_caption_item(x)} {_score(x)}</li>" for x in query["captions"])
    figure = f"<figure>{drawings.draw(query['image'])}<figcaption>{name}</figcaption></figure>"
    return f'<section><h2>{name}</h2><div class="side">{figure}<div><ol>{items}</ol></div></div></section>'


def _caption_item(item: Mapping[str, Any]) -> Html:
    text = html(f"“{item['text']}”")
    return Html(f"<b>✓ own: {text}</b>") if item["own"] else Html(f"{text} <small>of {html(item['name'])}</small>")


def _score(item: Mapping[str, Any]) -> Html:
    return Html(f"<small>{item['score']:#.4g}</small>")
