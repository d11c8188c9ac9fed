"""The graphs of an explanation on its page: the strongest relations as arrows, all of them as a table,
and what regions keep to themselves."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from .canvas import Point, about_point, keep_clear
from .explanation import Edge, Explanation
from .html import Html, html, svg, table
from .relations import Relation, lit_relations, said

SHOWN = 12
_NODE = 0.026  # radius by the longer side of the canvas
_RING = 0.32  # between the rings of a node, in radii
_STROKE = 0.24  # of a ring, in radii
_BEND = 0.12


def relations_section(explanation: Explanation, relations: Sequence[Relation], boxes: np.ndarray, size: Point) -> str:
    """HTML of the section; nothing where there are no graphs.

    Args:
        explanation: of the pair.
        relations: all, the strongest first.
        boxes: (R, 4) of the regions.
        size: width and height of the canvas.
    """
    if not explanation.edges:
        return ""
    kinds = list(dict.fromkeys(edge.kind for edge in explanation.edges))
    keys = " ".join(f'<span class="{kind}"><span class="key"></span>{kind}</span>' for kind in kinds)
    numbered = list(enumerate(relations))
    more = ""
    if numbered[SHOWN:]:
        more = (
            f"<details><summary>{len(numbered) - SHOWN} more</summary>{_table(explanation, numbered[SHOWN:])}</details>"
        )
    rings = "Rings" if len(kinds) > 1 else "The ring"
    order = f" ({', '.join(kinds)} from the inside)" if len(kinds) > 1 else ""
    lit = '<div id="lit"><h3></h3><ol></ol></div>' if explanation.kept and relations else ""
    return f"""<h2>The relations of the graphs</h2>
<p class="note">Attention that flows into each of the two regions along the relation, mean over the heads. What a region
takes in from a graph sums to 1 with its share in itself. {rings} around a number{order}: that share. Of a chosen region
all relations are marked, of a chosen word those along which it gets more than the sentence's words do on the mean.</p>
<div class="view even">
<div class="graph">{_drawing(explanation, numbered, boxes, size)}<p class="keys">{keys}</p>{lit}</div>
<div>{_table(explanation, numbered[:SHOWN])}{more}{_selves(explanation, kinds)}</div></div>"""


def _table(explanation: Explanation, relations: Sequence[tuple[int, Relation]]) -> Html:
    heads = ["relation", "graph", "to subject", "to object"]
    sure = all(edge.confidence == 1 for edge in explanation.edges)
    if not sure:
        heads.append("confidence")
    rows: list[list[object]] = []
    for number, relation in relations:
        name = Html(
            f'<span data-relation="{number}" data-ends="{relation.subject} {relation.target}">'
            f"{html(said(explanation, relation))}</span>"
        )
        into = [_attention(relation.gathered_by(end)) for end in (relation.subject, relation.target)]
        row: list[object] = [name, relation.kind, *into]
        rows.append(row if sure else [*row, f"{relation.edges[0].confidence:.2f}"])
    return table(heads, rows, kind="relations")


def _attention(edges: Sequence[Edge]) -> str:
    """Of every layer in turn."""
    return ", ".join(f"{edge.attention:.3f}" for edge in edges) or "–"


def _own(explanation: Explanation, kind: str, region: int) -> list[Edge]:
    """A region's edges of a graph to itself, layer by layer."""
    return [e for e in explanation.edges if e.kind == kind and e.region == e.neighbour == region]


def _selves(explanation: Explanation, kinds: Sequence[str]) -> str:
    """What each region looks at in itself, and what it keeps of its state."""
    heads = ["region", *kinds, *(["kept"] if explanation.kept else [])]
    rows: list[list[object]] = []
    for i, name in enumerate(explanation.regions):
        first = Html(f'<span data-self="{i}">{html(f"{name} {i}")}</span>')
        row: list[object] = [first, *(_attention(_own(explanation, kind, i)) for kind in kinds)]
        if explanation.kept:
            row.append(", ".join(f"{own[i]:.3f}" for own in explanation.kept))
        rows.append(row)
    kept = ""
    if explanation.kept:
        kept = " Kept: the share of its state that a layer of reasoning leaves; the rest came along edges."
    note = f'<p class="note">A region’s attention to itself in each graph.{kept}</p>'
    return f"<details><summary>Regions in themselves</summary>{note}{table(heads, rows, kind='selves')}</details>"


def _drawn(explanation: Explanation, relations: Sequence[tuple[int, Relation]]) -> list[tuple[int, Relation]]:
    """The strongest, then those that a word lights up in one of the steps."""
    found = [relation for _, relation in relations]
    lit = {
        id(one.relation)
        for step in range(max(1, explanation.n_steps))
        for word in range(len(explanation.words))
        for one in lit_relations(explanation, found, word, step)
    }
    return [(k, relation) for k, relation in relations if k < SHOWN or id(relation) in lit]


def _drawing(
    explanation: Explanation, relations: Sequence[tuple[int, Relation]], boxes: np.ndarray, size: Point
) -> Html:
    radius = _NODE * max(size)
    reach = radius * (1 + _RING * (len({edge.kind for edge in explanation.edges}) - 0.5) + _STROKE / 2)  # of the rings
    drawn = _drawn(explanation, relations)
    ends = list(dict.fromkeys(end for _, relation in drawn for end in (relation.subject, relation.target)))
    usual = {end for _, relation in relations[:SHOWN] for end in (relation.subject, relation.target)}
    room = (2 * reach, 2 * reach)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    corners = keep_clear([(room, about_point(centres[i].tolist(), room)) for i in ends], size)
    nodes = {
        i: np.clip(centres[i], reach, np.array(size) - reach) if corner is None else np.array(corner) + reach
        for i, corner in zip(ends, corners, strict=True)
    }
    parts = []
    for i in ends:
        x0, y0, x1, y1 = boxes[i].tolist()
        parts.append(
            f'<rect class="frame{"" if i in usual else " spare"}" data-node="{i}" x="{x0:g}" y="{y0:g}" '
            f'width="{x1 - x0:g}" height="{y1 - y0:g}"/>'
        )
    most = relations[0][1].attention if relations else 1.0
    parts += [_arrow(explanation, k, relation, nodes, radius, most) for k, relation in reversed(drawn)]
    parts += [_node(explanation, i, at, radius, spare=i not in usual) for i, at in nodes.items()]
    told = "; ".join(said(explanation, relation) for _, relation in relations[:SHOWN])
    label = f"Arrows from subject to object: {told}"
    return svg(600, 600 * size[1] / size[0], label, "".join(parts), view=size)


def _node(explanation: Explanation, i: int, at: np.ndarray, radius: float, *, spare: bool) -> str:
    """A number in a circle, with a ring for each graph whose arc is the region's attention to itself."""
    x, y = at.tolist()
    told, rings = [f"{explanation.regions[i]} {i}"], []
    for number, kind in enumerate(dict.fromkeys(edge.kind for edge in explanation.edges)):
        own = _own(explanation, kind, i)
        if own:
            told.append(f"{kind}, in itself: {_attention(own)}")
            r = radius * (1 + _RING * (number + 0.5))
            rings.append(
                f'<circle class="ring {kind}" cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}" pathLength="100" '
                f'stroke-dasharray="{100 * own[-1].attention:.1f} 100" '
                f'style="--ring:{_STROKE * radius:.2f}px" transform="rotate(-90 {x:.1f} {y:.1f})"/>'
            )
    return (
        f'<g class="node{" spare" if spare else ""}" data-node="{i}"><title>{escape("; ".join(told))}</title>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>{"".join(rings)}'
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{1.15 * radius:.1f}">{i}</text></g>'
    )


def _arrow(
    explanation: Explanation,
    number: int,
    relation: Relation,
    nodes: dict[int, np.ndarray],
    radius: float,
    most: float,
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
    spare = "" if number < SHOWN else " spare"
    return (
        f'<g class="arrow {relation.kind}{spare}" data-relation="{number}" '
        f'data-ends="{relation.subject} {relation.target}" style="--width:{width:.1f}px">'
        f"<title>{escape(said(explanation, relation))}</title>"
        f'<path class="shaft" d="M{a} Q{b} {c}"/><path class="head" d="M{d} L{e} L{f}z"/></g>'
    )
