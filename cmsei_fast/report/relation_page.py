"""The graphs of an explanation on its page: the strongest relations as arrows, all of them as a table,
and how much of their states regions keep."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from .canvas import Point, place_labels, places_for_point
from .explanation import Edge, Explanation
from .html import Html, html, svg, table
from .relations import Relation, highlighted_relations, relation_text

SHOWN = 12
_NODE_RADIUS = 0.026  # as a share of the canvas's longer side
_RING_DISTANCE = 0.32  # between the rings of a node, in radii
_RING_WIDTH = 0.24  # of a ring, in radii
_BEND = 0.12  # distance of an arrow's control point from the straight line, as a share of the line's length


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
    legend = " ".join(f'<span class="{kind}"><span class="key"></span>{kind}</span>' for kind in kinds)
    numbered = list(enumerate(relations))
    more = ""
    if numbered[SHOWN:]:
        more = (
            f"<details><summary>{len(numbered) - SHOWN} more</summary>{_table(explanation, numbered[SHOWN:])}</details>"
        )
    rings = "Rings" if len(kinds) > 1 else "The ring"
    order = f" ({', '.join(kinds)} from the inside)" if len(kinds) > 1 else ""
    highlighted_list = (
        '<div id="highlighted-relations"><h3></h3><ol></ol></div>' if explanation.kept and relations else ""
    )
    return f"""<h2>The relations of the graphs</h2>
<p class="note">Attention of each of the two regions to the other along the relation, mean over the heads. In each
graph, a region's attention to all regions, itself included, sums to 1. {rings} around a number{order}: the attention to
itself. All relations of a selected region are highlighted, and of a selected word those that carry more of its
attention than of the sentence's words on average.</p>
<div class="view even">
<div class="graph">{_draw_graph(explanation, numbered, boxes, size)}<p class="keys">{legend}</p>{highlighted_list}</div>
<div>{_table(explanation, numbered[:SHOWN])}{more}{_self_table(explanation, kinds)}</div></div>"""


def _table(explanation: Explanation, relations: Sequence[tuple[int, Relation]]) -> Html:
    headers = ["relation", "graph", "by subject", "by object"]
    all_certain = all(edge.confidence == 1 for edge in explanation.edges)
    if not all_certain:
        headers.append("confidence")
    rows: list[list[object]] = []
    for number, relation in relations:
        name = Html(
            f'<span data-relation="{number}" data-ends="{relation.subject} {relation.target}">'
            f"{html(relation_text(explanation, relation))}</span>"
        )
        attentions = [_format_attention(relation.gathered_by(end)) for end in (relation.subject, relation.target)]
        row: list[object] = [name, relation.kind, *attentions]
        rows.append(row if all_certain else [*row, f"{relation.edges[0].confidence:.2f}"])
    return table(headers, rows, kind="relations")


def _format_attention(edges: Sequence[Edge]) -> str:
    """The attention along the edges, layer by layer."""
    return ", ".join(f"{edge.attention:.3f}" for edge in edges) or "–"


def _self_edges(explanation: Explanation, kind: str, region: int) -> list[Edge]:
    """A region's edges of a graph to itself, layer by layer."""
    return [e for e in explanation.edges if e.kind == kind and e.region == e.neighbour == region]


def _self_table(explanation: Explanation, kinds: Sequence[str]) -> str:
    """A table of each region's attention to itself in each graph, and of the share of its state that it keeps."""
    headers = ["region", *kinds, *(["kept"] if explanation.kept else [])]
    rows: list[list[object]] = []
    for i, name in enumerate(explanation.regions):
        first = Html(f'<span data-self="{i}">{html(f"{name} {i}")}</span>')
        row: list[object] = [first, *(_format_attention(_self_edges(explanation, kind, i)) for kind in kinds)]
        if explanation.kept:
            row.append(", ".join(f"{kept[i]:.3f}" for kept in explanation.kept))
        rows.append(row)
    kept_note = ""
    if explanation.kept:
        kept_note = " Kept: the share of its state that a layer of reasoning leaves; the rest came along edges."
    note = f'<p class="note">A region’s attention to itself in each graph.{kept_note}</p>'
    rows_table = table(headers, rows, kind="selves")
    return f"<details><summary>Attention of regions to themselves</summary>{note}{rows_table}</details>"


def _shown_relations(explanation: Explanation, relations: Sequence[tuple[int, Relation]]) -> list[tuple[int, Relation]]:
    """The strongest relations, then those that a word highlights in one of the steps."""
    all_relations = [relation for _, relation in relations]
    highlighted = {
        id(one.relation)
        for step in range(max(1, explanation.n_steps))
        for word in range(len(explanation.words))
        for one in highlighted_relations(explanation, all_relations, word, step)
    }
    return [(k, relation) for k, relation in relations if k < SHOWN or id(relation) in highlighted]


def _draw_graph(
    explanation: Explanation, relations: Sequence[tuple[int, Relation]], boxes: np.ndarray, size: Point
) -> Html:
    radius = _NODE_RADIUS * max(size)
    # With the rings, one for each graph.
    outer_radius = radius * (
        1 + _RING_DISTANCE * (len({edge.kind for edge in explanation.edges}) - 0.5) + _RING_WIDTH / 2
    )
    shown = _shown_relations(explanation, relations)
    ends = list(dict.fromkeys(end for _, relation in shown for end in (relation.subject, relation.target)))
    always_shown = {end for _, relation in relations[:SHOWN] for end in (relation.subject, relation.target)}
    node_size = (2 * outer_radius, 2 * outer_radius)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    corners = place_labels([(node_size, places_for_point(centres[i].tolist(), node_size)) for i in ends], size)
    nodes = {
        i: np.clip(centres[i], outer_radius, np.array(size) - outer_radius)
        if corner is None
        else np.array(corner) + outer_radius
        for i, corner in zip(ends, corners, strict=True)
    }
    parts = []
    for i in ends:
        x0, y0, x1, y1 = boxes[i].tolist()
        parts.append(
            f'<rect class="frame{"" if i in always_shown else " spare"}" data-node="{i}" x="{x0:g}" y="{y0:g}" '
            f'width="{x1 - x0:g}" height="{y1 - y0:g}"/>'
        )
    largest_attention = relations[0][1].attention if relations else 1.0
    parts += [
        _draw_arrow(explanation, k, relation, nodes, radius, largest_attention) for k, relation in reversed(shown)
    ]
    parts += [
        _draw_node(explanation, i, position, radius, spare=i not in always_shown) for i, position in nodes.items()
    ]
    description = "; ".join(relation_text(explanation, relation) for _, relation in relations[:SHOWN])
    label = f"Arrows from subject to object: {description}"
    return svg(600, 600 * size[1] / size[0], label, "".join(parts), view=size)


def _draw_node(explanation: Explanation, i: int, position: np.ndarray, radius: float, *, spare: bool) -> str:
    """A number in a circle, with a ring for each graph whose arc is the region's attention to itself."""
    x, y = position.tolist()
    title, rings = [f"{explanation.regions[i]} {i}"], []
    for number, kind in enumerate(dict.fromkeys(edge.kind for edge in explanation.edges)):
        self_edges = _self_edges(explanation, kind, i)
        if self_edges:
            title.append(f"{kind}, to itself: {_format_attention(self_edges)}")
            ring_radius = radius * (1 + _RING_DISTANCE * (number + 0.5))
            rings.append(
                f'<circle class="ring {kind}" cx="{x:.1f}" cy="{y:.1f}" r="{ring_radius:.1f}" pathLength="100" '
                f'stroke-dasharray="{100 * self_edges[-1].attention:.1f} 100" '
                f'style="--ring:{_RING_WIDTH * radius:.2f}px" transform="rotate(-90 {x:.1f} {y:.1f})"/>'
            )
    return (
        f'<g class="node{" spare" if spare else ""}" data-node="{i}"><title>{escape("; ".join(title))}</title>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>{"".join(rings)}'
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{1.15 * radius:.1f}">{i}</text></g>'
    )


def _draw_arrow(
    explanation: Explanation,
    number: int,
    relation: Relation,
    nodes: dict[int, np.ndarray],
    radius: float,
    largest_attention: float,
) -> str:
    """A bent line between two nodes, with its head."""
    start, end = nodes[relation.subject], nodes[relation.target]
    direction = end - start
    normal = np.array([direction[1], -direction[0]])
    middle = (start + end) / 2 + _BEND * normal
    end_direction, start_direction = (x / max(1e-9, float(np.hypot(*x))) for x in (end - middle, middle - start))
    tip = end - 1.05 * radius * end_direction
    base = tip - 0.75 * radius * end_direction
    side = 0.4 * radius * np.array([end_direction[1], -end_direction[0]])
    points = [start + radius * start_direction, middle, base, tip, base + side, base - side]
    a, b, c, d, e, f = (f"{x:.1f} {y:.1f}" for x, y in points)
    width = 1.2 + 2.8 * relation.attention / largest_attention
    spare_class = "" if number < SHOWN else " spare"
    return (
        f'<g class="arrow {relation.kind}{spare_class}" data-relation="{number}" '
        f'data-ends="{relation.subject} {relation.target}" style="--width:{width:.1f}px">'
        f"<title>{escape(relation_text(explanation, relation))}</title>"
        f'<path class="shaft" d="M{a} Q{b} {c}"/><path class="head" d="M{d} L{e} L{f}z"/></g>'
    )
