"""The demonstration's page: one HTML file with the ablation table and, caption by caption, what two models chose."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from .canvas import Point, place_labels, places_for_box, places_for_point, places_off_lines
from .html import Html, draw_name, name_size, page, svg, table

if TYPE_CHECKING:
    from ..data import Scene, SyntheticScenes

SHOWN = 4
_SCALE = 0.5
_NAME_HEIGHT = 12  # CSS pixels
_ARROW_MARGIN = 7  # between a name and an arrow, half of the arrow's head; CSS pixels
_STYLE = """
tbody th { font-weight: normal; }
td div { height: .35rem; background: var(--accent); margin-left: auto; }
figure.true { border: 3px solid var(--ink); padding: calc(.5rem - 2px); }
.gallery { grid-template-columns: repeat(auto-fit, minmax(10.25rem, 1fr)); max-width: 72rem; }
@media (max-width: 40rem) { .gallery { grid-template-columns: minmax(0, 1fr); } }
"""


@dataclass(frozen=True, eq=False)
class Row:
    """What one model reached on the test scenes, in percent.

    Args:
        title: of the model.
        group: captions whose image beats the three others of its group (chance 25).
        story: the same between the two images that differ in who does what to whom (chance 50).
        place: the same between the two images that differ in where things are (chance 50).
        rsum: of retrieval among all test images.
        seconds: of training.
        scores: (n_image, n_caption).
    """

    title: str
    group: float
    story: float
    place: float
    rsum: float
    seconds: float
    scores: np.ndarray


def demo_page(rows: Sequence[Row], test: SyntheticScenes) -> str:
    """The page's text, with no address outside it.

    Args:
        rows: rows of the table; the examples show the choices of the first and the last one.
        test: the scenes that were scored.
    """
    headers = ("", "in its group", "which story", "which place", "rSum")
    table_rows: list[tuple[object, ...]] = [("chance", "25", "50", "50", f"{3200 / len(test.scenes):.1f}")]
    for row in rows:
        percentages = (row.group, row.story, row.place)
        bars = (Html(f'{x:.1f}<div style="width:{x:.0f}%"></div>') for x in percentages)
        table_rows.append((row.title, *bars, f"{row.rsum:.1f}"))
    examples = "".join(_example_section(rows[0], rows[-1], test, j) for j in _choose_examples(rows[0], rows[-1], test))
    body = f"""<h1>What the graphs are for</h1>
<p>Four images of a group hold the same objects in the same colours: two stories (who does what to whom) times two
places (where something is). Percent of captions whose image scores highest in its group of four, between the two images
that differ in their story alone, and between the two that differ in the place alone; rSum is over all
{len(test.scenes)} test images.</p>
{table(headers, table_rows)}
<h2>Some captions and the images they could be of</h2>
<p>The arrow is the scene graph's relation; the thick frame is the image that the caption was written for.</p>
{examples}"""
    return page("cmsei-fast demo", body, style=_STYLE)


def _group_images(test: SyntheticScenes, caption: int) -> np.ndarray:
    """Indices of the images in the group of a caption's image."""
    owner = int(test.scenes.caption_to_image[caption])
    return np.nonzero(test.group == test.group[owner])[0]


def _choose_examples(first: Row, last: Row, test: SyntheticScenes) -> list[int]:
    """Captions of different groups: some where only the last model is right, then one that it misses."""
    improved, missed, groups = [], [], set()
    for j, owner in enumerate(test.scenes.caption_to_image.tolist()):
        members = _group_images(test, j)
        correct = [members[row.scores[members, j].argmax()] == owner for row in (first, last)]
        if int(test.group[owner]) in groups or correct == [True, True]:
            continue
        if correct[1]:
            improved.append(j)
        else:
            missed.append(j)
        groups.add(int(test.group[owner]))
    return improved[: SHOWN - 1] + missed[:1]


def _example_section(first: Row, last: Row, test: SyntheticScenes, caption: int) -> str:
    members = _group_images(test, caption)
    owner = int(test.scenes.caption_to_image[caption])
    chosen = {row.title: members[row.scores[members, caption].argmax()] for row in (first, last)}
    figures = []
    for image in members:
        scores = ", ".join(f"{escape(row.title)} {row.scores[image, caption]:.3f}" for row in (first, last))
        chosen_by = [escape(title) for title, choice in chosen.items() if choice == image]
        chosen_note = f"<b>chosen by {' and '.join(chosen_by)}</b><br>" if chosen_by else ""
        own_note = "<b>the caption's own image</b><br>" if image == owner else ""
        figures.append(
            f'<figure class="{"true" if image == owner else "other"}">{_draw_scene(test, int(image))}'
            f"<figcaption>{own_note}{chosen_note}{scores}</figcaption></figure>"
        )
    text = re.sub(r" +([.,;])", r"\1", test.scenes.captions[caption])
    return f'<h3>“{escape(text)}”</h3><div class="gallery">{"".join(figures)}</div>'


def _draw_scene(test: SyntheticScenes, image: int) -> str:
    """The scene as boxes with names, and an arrow for its relation."""
    from ..data.synthetic import CANVAS

    scene: Scene = test.scenes[image]
    canvas = width, height = int(CANVAS[0] * _SCALE), int(CANVAS[1] * _SCALE)
    parts: list[str] = []
    names: list[tuple[str, bool, Iterator[Point]]] = []
    centres = [((x1 + x2) * _SCALE / 2, (y1 + y2) * _SCALE / 2) for x1, y1, x2, y2 in scene.boxes.tolist()]
    arrows = [(centres[subject], centres[target]) for subject, _, target in scene.relations]
    for box, noun, colour in zip(scene.boxes * _SCALE, scene.labels, test.attributes[image], strict=True):
        x1, y1, x2, y2 = box.tolist()
        if colour is None:
            continue
        parts.append(
            f'<rect x="{x1:.0f}" y="{y1:.0f}" width="{x2 - x1:.0f}" height="{y2 - y1:.0f}" fill="{colour}" '
            f'fill-opacity=".35" stroke="var(--ink)"/>'
        )
        size = name_size(f"{colour} {noun}", _NAME_HEIGHT)
        names.append(
            (
                f"{colour} {noun}",
                False,
                places_off_lines(_name_places((x1, y1, x2, y2), size), size, arrows, _ARROW_MARGIN, canvas),
            )
        )
    for (_, action, _), ((ax, ay), (bx, by)) in zip(scene.relations, arrows, strict=True):
        parts.append(
            f'<line x1="{ax:.0f}" y1="{ay:.0f}" x2="{bx:.0f}" y2="{by:.0f}" stroke="var(--ink)" stroke-width="2" '
            f'marker-end="url(#head)"/>'
        )
        size = name_size(action, _NAME_HEIGHT, bold=True)
        places = places_for_point(((ax + bx) / 2, (ay + by) / 2), size)
        names.insert(0, (action, True, places_off_lines(places, size, arrows, _ARROW_MARGIN, canvas)))
    corners = place_labels(((name_size(name, _NAME_HEIGHT, bold=bold), places) for name, bold, places in names), canvas)
    for (name, bold, _), corner in zip(names, corners, strict=True):
        if corner is not None:
            parts.append(draw_name(name, *corner, _NAME_HEIGHT, bold=bold))
    arrow_head = (
        '<defs><marker id="head" markerWidth="7" markerHeight="7" refX="6" refY="3.5" orient="auto">'
        '<path d="M0 0 L7 3.5 L0 7 z" fill="var(--ink)"/></marker></defs>'
    )
    relations = "; ".join(f"{scene.labels[s]} {p} {scene.labels[o]}" for s, p, o in scene.relations)
    a, place, b = test.where[image]
    label = f"{relations}; {scene.labels[a]} {place} {scene.labels[b]}"
    return svg(width, height, label, arrow_head + "".join(parts))


def _name_places(box: tuple[float, float, float, float], size: Point) -> Iterator[Point]:
    """Places of an object's name: above it, below it, over it, near it."""
    x1, y1, x2, y2 = box
    yield from ((x1, y1 - size[1]), (x1, y2))
    yield from places_for_box(box, size)
    yield from places_for_point(((x1 + x2) / 2, (y1 + y2) / 2), size)
