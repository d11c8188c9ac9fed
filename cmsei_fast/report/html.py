"""Self-contained HTML: the page around a body, tables and pictures, with no address outside it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from unicodedata import east_asian_width

# Should a caption or a name ever get past the escaping, a browser still loads nothing from outside the page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_STYLE = """
:root { color-scheme: light dark;
  --ink: #1b1b1b; --line: #ccc; --accent: #35618f; --paper: #fff; --canvas: #f6f5f1; --quiet: #595959; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e9e9e6; --line: #4a4d52; --accent: #8ab4e0; --paper: #17191c; --canvas: #22252a; --quiet: #a8aaad; }
}
body { font: 16px/1.45 system-ui, sans-serif; max-width: 74rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--ink); background: var(--paper); }
table { border-collapse: collapse; }
th, td { padding: .3rem .9rem; text-align: right; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 0; padding: .5rem; border: 1px solid var(--line); }
figcaption { font-size: .85rem; }
svg { display: block; max-width: 100%; height: auto; background: var(--canvas); }
svg text { fill: var(--ink); }
.name { stroke: var(--canvas); stroke-width: 3px; stroke-linejoin: round; paint-order: stroke; }
.scroll { overflow-x: auto; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.25rem, 1fr)); gap: .7rem; }
.gallery :is(svg, img) { margin: 0 auto .3rem; }
@media (max-width: 40rem) {
  body { margin: 1rem auto; }
  h1 { font-size: 1.5rem; }
  h2 { font-size: 1.25rem; }
  th, td { padding: .3rem .35rem; font-size: .875rem; }
}
img { display: block; max-width: 100%; height: auto; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
"""


class Html(str):
    """Text that is HTML already; any other string is escaped where it enters a page."""


def html(text: object) -> Html:
    """Any text or number as HTML."""
    return text if isinstance(text, Html) else Html(escape(str(text)))


def page(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """The whole document.

    Args:
        title: plain text.
        body: HTML.
        style: CSS after the shared one, whose colours are the variables ``--ink``, ``--quiet``, ``--line``,
            ``--accent``, ``--paper`` and ``--canvas``.
        script: JavaScript that runs when the body is there.
    """
    script_element = f"<script>{script}</script>\n" if script else ""
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)}</title><style>{_STYLE}{style}</style>
{body}
{script_element}</html>
"""


def table(headers: Sequence[object], rows: Iterable[Sequence[object]], *, kind: str = "") -> Html:
    """A table; the first column is at the left and names its row, the others are numbers at the right.

    Where the screen is too narrow for it, it scrolls within the page.

    Args:
        headers: names of the columns; an empty sequence gives a table without a header row.
        rows: their cells, escaped unless they are :class:`Html`.
        kind: CSS class.
    """
    head = "".join(f'<th scope="col">{html(x)}</th>' for x in headers)
    lines = [f"<thead><tr>{head}</tr></thead>"] if headers else []
    lines.append("<tbody>")
    for row_name, *others in rows:
        cells = "".join(f"<td>{html(x)}</td>" for x in others)
        lines.append(f'<tr><th scope="row">{html(row_name)}</th>{cells}</tr>')
    opening_tag = f'<table class="{escape(kind)}">' if kind else "<table>"
    return Html("\n".join([f'<div class="scroll">{opening_tag}', *lines, "</tbody></table></div>"]))


def svg(width: float, height: float, label: str, inner: str, *, view: tuple[float, float] | None = None) -> Html:
    """A drawing of that size, or smaller where the page has less room, with a description for screen readers.

    Args:
        width, height: on the page, CSS pixels.
        label: what it shows, plain text.
        inner: its elements.
        view: width and height in the elements' own units, if other than the page's.
    """
    view_width, view_height = view or (width, height)
    return Html(
        f'<svg role="img" aria-label="{escape(label)}" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {view_width:g} {view_height:g}">{inner}</svg>'
    )


def picture(content: bytes, kind: str, label: str, *, width: int | None = None) -> Html:
    """An image whose bytes are in the page; ids within an SVG cannot clash with those of another.

    Args:
        content: the file.
        kind: its media type, such as ``image/svg+xml``.
        label: what it shows, plain text.
        width: on the page, CSS pixels; None is the image's own.
    """
    data = base64.b64encode(content).decode("ascii")
    size = "" if width is None else f' width="{width}"'
    return Html(f'<img alt="{escape(label)}"{size} src="data:{kind};base64,{data}">')


def draw_name(text: str, x: float, y: float, size: float, *, bold: bool = False) -> Html:
    """A name in a drawing, legible over lines; x and y are its top left corner.

    Its width is about that of :func:`name_size`.
    """
    weight = ' font-weight="bold"' if bold else ""
    return Html(
        f'<text class="name" x="{x + 0.1 * size:.1f}" y="{y + 0.95 * size:.1f}" font-size="{size:g}"{weight}>'
        f"{escape(text)}</text>"
    )


def name_size(text: str, size: float, *, bold: bool = False) -> tuple[float, float]:
    """Width and height that a name takes in a drawing, on the generous side for common fonts."""
    width_in_heights = sum(map(_character_width, text)) + 0.08 * bold * len(text)
    return (width_in_heights + 0.3) * size, 1.2 * size


def _character_width(character: str) -> float:
    """In heights of the font."""
    if character in "mMW@%" or east_asian_width(character) in "WF":
        return 1.0
    return 0.84 if character == "w" else 0.76 if character.isupper() else 0.62
