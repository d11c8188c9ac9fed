"""Self-contained HTML: the page around a body, tables and pictures, with no address outside it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

# A browser refuses what is not in the page itself, should a caption or a name ever get past the escaping.
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
svg { display: block; background: var(--canvas); }
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
    run = f"<script>{script}</script>\n" if script else ""
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)}</title><style>{_STYLE}{style}</style>
{body}
{run}</html>
"""


def table(heads: Sequence[object], rows: Iterable[Sequence[object]], *, kind: str = "") -> Html:
    """A table; the first column is at the left and names its row, the others are numbers at the right.

    Args:
        heads: of the columns; none gives a table without a head.
        rows: their cells, escaped unless they are :class:`Html`.
        kind: CSS class.
    """
    head = "".join(f'<th scope="col">{html(x)}</th>' for x in heads)
    lines = [f"<thead><tr>{head}</tr></thead>"] if heads else []
    lines.append("<tbody>")
    for first, *others in rows:
        cells = "".join(f"<td>{html(x)}</td>" for x in others)
        lines.append(f'<tr><th scope="row">{html(first)}</th>{cells}</tr>')
    opening = f'<table class="{escape(kind)}">' if kind else "<table>"
    return Html("\n".join([opening, *lines, "</tbody></table>"]))


def svg(width: float, height: float, label: str, inner: str, *, view: tuple[float, float] | None = None) -> Html:
    """A drawing of that size on the page with a description for those who cannot see it.

    Args:
        width, height: on the page, CSS pixels.
        label: what it shows, plain text.
        inner: its elements.
        view: width and height in the elements' own units, if other than the page's.
    """
    box = "" if view is None else f' viewBox="0 0 {view[0]:g} {view[1]:g}"'
    return Html(
        f'<svg role="img" aria-label="{escape(label)}" width="{width:.0f}" height="{height:.0f}"{box}>{inner}</svg>'
    )


def picture(content: bytes, kind: str, label: str, *, width: int | None = None) -> Html:
    """An image whose bytes are in the page; ids within an SVG cannot meet those of another.

    Args:
        content: the file.
        kind: its media type, such as ``image/svg+xml``.
        label: what it shows, plain text.
        width: on the page, CSS pixels; None is the image's own.
    """
    data = base64.b64encode(content).decode("ascii")
    size = "" if width is None else f' width="{width}"'
    return Html(f'<img alt="{escape(label)}"{size} src="data:{kind};base64,{data}">')
