"""The graphs of an explanation on its page: the strongest relations as arrows, and all of them as a table."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from .canvas import Point, about_point, keep_clear
from .explanation import Edge, Explanation
from .html import Html, html, svg, table
from .relations import Relation, said, strongest_relations

SHOWN = 12
_NODE = 0.026  # radius by the longer side of the canvas
_BEND = 0.12


def relations_section(explanation: Explanation, boxes: np.ndarray, size: Point) -> str:
    """HTML of the section; nothing where there are no graphs.

    Args:
        explanation: of the pair.
        boxes: (R, 4) of the regions.
        size: width and height of the canvas.
    """
    relations = strongest_relations(explanation)
    if not relations:
        return ""
    kinds = dict.fromkeys(relation.kind for relation in relations)
    keys = " ".join(f'<span class="{kind}"><span class="key"></span>{kind}</span>' for kind in kinds)
    strongest, others = relations[:SHOWN], relations[SHOWN:]
    more = ""
    if others:
        more = f"<details><summary>{len(others)} more</summary>{_table(explanation, others)}</details>"
    return f"""<h2>The relations of the graphs</h2>
<p class="note">Attention that flows into each of the two regions along the relation, mean over the heads. What a region
takes in from a graph sums to 1 with its share in itself, not shown here. A chosen region's relations are marked.</p>
<div class="view even">
<div class="graph">{_drawing(explanation, strongest, boxes, size)}<p class="keys">{keys}</p></div>
<div>{_table(explanation, strongest)}{more}</div></div>"""


def _table(explanation: Explanation, relations: Sequence[Relation]) -> Html:
    heads = ["relation", "graph", "to subject", "to object"]
    sure = all(edge.confidence == 1 for edge in explanation.edges)
    if not sure:
        heads.append("confidence")
    rows: list[list[object]] = []
    for relation in relations:
        name = Html(
            f'<span data-ends="{relation.subject} {relation.target}">{html(said(explanation, relation))}</span>'
        )
        into = [_attention(relation.gathered_by(end)) for end in (relation.subject, relation.target)]
        row: list[object] = [name, relation.kind, *into]
        rows.append(row if sure else [*row, f"{relation.edges[0].confidence:.2f}"])
    return table(heads, rows, kind="relations")


def _attention(edges: Sequence[Edge]) -> str:
    """Of every layer in turn."""
    return ", ".join(f"{edge.attention:.3f}" for edge in edges) or "–"


def _drawing(explanation: Explanation, relations: Sequence[Relation], boxes: np.ndarray, size: Point) -> Html:
    radius = _NODE * max(size)
    ends = list(dict.fromkeys(end for relation in relations for end in (relation.subject, relation.target)))
    room = (2.3 * radius, 2.3 * radius)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    corners = keep_clear([(room, about_point(centres[i].tolist(), room)) for i in ends], size)
    nodes = {
        i: centres[i] if corner is None else np.array(corner) + 1.15 * radius
        for i, corner in zip(ends, corners, strict=True)
    }
    parts = []
    for i in ends:
        x0, y0, x1, y1 = boxes[i].tolist()
        parts.append(f'<rect class="frame" x="{x0:g}" y="{y0:g}" width="{x1 - x0:g}" height="{y1 - y0:g}"/>')
    most = relations[0].attention
    parts += [_arrow(explanation, relation, nodes, radius, most) for relation in reversed(relations)]
    for i, (x, y) in nodes.items():
        parts.append(
            f'<g class="node"><title>{escape(f"{explanation.regions[i]} {i}")}</title>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>'
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{1.15 * radius:.1f}">{i}</text></g>'
        )
    label = "Arrows from subject to object: " + "; ".join(said(explanation, relation) for relation in relations)
    return svg(600, 600 * size[1] / size[0], label, "".join(parts), view=size)


def _arrow(
    explanation: Explanation, relation: Relation, nodes: dict[int, np.ndarray], radius: float, most: float
) -> str:
    """A bent line between two nodes, with its head."""
    start, end = nodes[relation.subject], nodes[relation.target]
    along = end - start
    aside = np.array([along[1], -along[0]])
    middle = (start + end) / 2 + _BEND * aside
    into, out = (x / max(1e-9, float(np.hypot(*x))) for x in (end - middle, middle - start))
    tip = end - 1.05 * radius * into
    base = tip - 0.75 * radius * into
    side = 0.4 * radius * np.array([into[1], -into[0]])
    points = [start + radius * out, middle, base, tip, base + side, base - side]
    a, b, c, d, e, f = (f"{x:.1f} {y:.1f}" for x, y in points)
    width = 1.2 + 2.8 * relation.attention / most
    return (
        f'<g class="arrow {relation.kind}" data-ends="{relation.subject} {relation.target}" '
        f'style="--width:{width:.1f}px"><title>{escape(said(explanation, relation))}</title>'
        f'<path class="shaft" d="M{a} Q{b} {c}"/><path class="head" d="M{d} L{e} L{f}z"/></g>'
    )
