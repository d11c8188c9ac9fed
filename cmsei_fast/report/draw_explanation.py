"""An explanation as a picture: boxes shaded by one word, the heat map, the strongest edges (if there are graphs), the
terms of the score.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from .canvas import Point, layout, place_labels, places_for_box, places_for_point, strengths
from .explanation import TERM_TITLES, Explanation
from .extras import require
from .fonts import boxes_for_missing_characters, families
from .image_file import read_image
from .relations import HighlightedRelation, Relation, highlighted_relations, relation_text, strongest_relations

SUFFIXES = (".png", ".svg")
_BOXES_NAMED = 5
_RELATIONS_SHOWN = 10
_MAX_CHARACTERS = 76
_LINE_HEIGHT = 0.043  # as a share of the panel's height
_SHADE = "#d1580f"
_LABEL_ROOM = (1.15, 2.2)  # width and height kept free for a label at an arrow's end, in those of the label
_DPI = 110
_TITLE_HEIGHT = 0.3  # inches; so are the next two
_BAR_HEIGHT = 0.3  # of a term where the terms are a strip
_BAR_MARGIN = 0.55  # of the strip's title and axis
_EDGE_COLOURS = {"spatial": "#35618f", "semantic": "#7b3a96", "implicit": "#4f7942"}
_EDGE_LINES = {"spatial": "solid", "semantic": "dashed", "implicit": "dotted"}
# Captions and names are plain text: a dollar sign starts no formula.
_PLAIN = {"parse_math": False}
_LABEL = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1}


def check_picture(path: str | os.PathLike[str], name: str = "path") -> None:
    """Checks that a picture can be drawn into a file of that name.

    Raises:
        ValueError: its suffix is neither ``.png`` nor ``.svg``, naming the argument ``name``.
        ModuleNotFoundError: matplotlib is not installed.
    """
    if os.path.splitext(os.fspath(path))[1].lower() not in SUFFIXES:
        raise ValueError(f"{name}: expected a file that ends in .png or .svg, got {os.fspath(path)}")
    require(name)


def draw(
    explanation: Explanation,
    path: str | os.PathLike[str],
    word: str | int | None = None,
    image: str | os.PathLike[str] | None = None,
    step: int = -1,
    *,
    through_graph: bool = False,
) -> None:
    """Draws one pair to a PNG or SVG file, which is written whole or not at all.

    Args:
        explanation: of the pair.
        path: ends in ``.png`` or ``.svg``.
        word: the word, or its index, whose attention shades the boxes; None chooses the one with the most uneven
            attention.
        image: the image's file; without it the boxes are drawn on an empty canvas, and without boxes regions are tiles.
        step: of the attention, from 0; -1 is the last.
        through_graph: show attention to the regions that the states came from.

    Raises:
        TypeError: ``explanation`` is not an Explanation.
        ValueError: for another suffix, a word or a step that the explanation does not have, or a file that is not an
            image.
        ModuleNotFoundError: matplotlib (or Pillow, for an image) is not installed.
        OSError: the directory does not exist or cannot be written.
    """
    if not isinstance(explanation, Explanation):
        raise TypeError(f"explanation: expected an Explanation, got {type(explanation).__name__}")
    check_picture(path)
    word_index = explanation.telling_word() if word is None else explanation.find_word(word)
    step = explanation.find_step(step)
    pixels = None if image is None else read_image(image)
    from ..data.files import check_target, replacing

    check_target(path)
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    relations = strongest_relations(explanation)
    names = {edge.name for edge in explanation.edges}
    text = "".join((explanation.image, explanation.caption, *explanation.words, *explanation.regions, *names))
    settings: Any = {"svg.hashsalt": "cmsei_fast", "font.size": 9, "font.family": families(text)}
    with matplotlib.rc_context(settings), boxes_for_missing_characters():
        boxes, size = layout(explanation)
        heights = _heights(explanation, size, bool(relations))
        figure = Figure(figsize=(15, sum(heights) + _TITLE_HEIGHT), dpi=_DPI, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(textwrap.fill(explanation.title, 150), **_PLAIN)
        grid = figure.add_gridspec(2, 1, height_ratios=heights)
        upper, lower = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
        boxes_axes, heat_axes = upper.subplots(1, 2, width_ratios=(1, 1.6))
        *graph_axes, terms_axes = lower.subplots(1, 2, width_ratios=(1.2, 0.8)) if relations else [lower.subplots()]
        attention = explanation.of_words(step, through_graph=through_graph)
        view = _step_note(explanation, step) + (", through the graph" if through_graph else "")
        labels = _draw_boxes(boxes_axes, explanation, word_index, attention[word_index], view, boxes, size, pixels)
        _draw_heat_map(upper, heat_axes, explanation, word_index, attention, view)
        highlighted = highlighted_relations(explanation, relations, word_index, step)
        strongest = [
            relation for relation in relations if not any(relation is other.relation for other in highlighted)
        ][:_RELATIONS_SHOWN]
        nodes = [_draw_relations(axes, explanation, word_index, highlighted, strongest, size) for axes in graph_axes]
        _draw_terms(terms_axes, explanation)
        figure.draw_without_rendering()  # sets the panels' sizes, on which the labels' sizes depend
        _place_labels(labels, size, {i: boxes[i] for i in labels})
        for axes, names_of_regions in zip(graph_axes, nodes, strict=True):
            centres = {i: _centre(boxes[i]) for i in names_of_regions}
            positions = _place_labels(names_of_regions, size, centres, _LABEL_ROOM)
            _draw_arrows(axes, highlighted, strongest, positions)
        kind = os.path.splitext(os.fspath(path))[1].lower()[1:]
        with replacing(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=_DPI, metadata={"Date": None} if kind == "svg" else None)


def _heights(explanation: Explanation, size: Point, has_relations: bool) -> tuple[float, float]:
    """Heights in inches of the upper panels (boxes and heat map) and of the lower ones (relations and terms).

    Without relations the terms are a strip, and the upper panels are as high as the boxes' panel needs.
    """
    upper = 4.5 + 0.16 * max(0, len(explanation.words) - 14)
    if has_relations:
        return upper, 4.2
    boxes_height = min(6.0, 5.4 * size[1] / size[0] + 0.7)  # the boxes' panel is about 5.4 wide
    return max(upper, boxes_height), _BAR_HEIGHT * len(explanation.terms) + _BAR_MARGIN


def _set_up_canvas(axes: Any, size: Point) -> None:
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0), aspect="equal", xticks=[], yticks=[])
    axes.set_facecolor("#f6f5f1")


def _label(axes: Any, text: str, fontsize: float) -> Any:
    """A label that is given its place later."""
    label = axes.text(
        0, 0, text, ha="center", va="center", fontsize=fontsize, bbox=_LABEL, clip_on=True, zorder=5, **_PLAIN
    )
    label.set_in_layout(False)
    return label


def _place_labels(
    labels: dict[int, Any], canvas: Point, anchors: dict[int, np.ndarray], room: Point = (1.0, 1.0)
) -> dict[int, np.ndarray]:
    """Puts each label at its box (four numbers) or point (two), clear of the others; hides labels without a free place.

    Args:
        labels: by region, all of one panel.
        canvas: width and height.
        anchors: box or point of each region.
        room: width and height to keep free for a label, in its own widths and heights.

    Returns:
        The extent (4,) xyxy of each label, by region; a single point for a hidden one.
    """
    sizes, requests = [], []
    for i, label in labels.items():
        window = label.get_bbox_patch().get_window_extent()
        sizes.append(np.ptp(label.axes.transData.inverted().transform(window.corners()), axis=0))
        space = (float(sizes[-1][0]) * room[0], float(sizes[-1][1]) * room[1])
        requests.append(
            (space, (places_for_box if len(anchors[i]) == 4 else places_for_point)(anchors[i].tolist(), space))
        )
    positions = {}
    corners = place_labels(requests, canvas)
    for (i, label), size, (space, _), corner in zip(labels.items(), sizes, requests, corners, strict=True):
        if corner is None:
            label.set_visible(False)
            positions[i] = np.tile(anchors[i][:2], 2)
        else:
            middle = np.array(corner) + np.array(space) / 2
            positions[i] = np.concatenate([middle - size / 2, middle + size / 2])
            label.set_position(middle)
    return positions


def _centre(box: np.ndarray) -> np.ndarray:
    return (box[:2] + box[2:]) / 2


def _draw_boxes(
    axes: Any,
    explanation: Explanation,
    word: int,
    attention: np.ndarray,
    view: str,
    boxes: np.ndarray,
    size: Point,
    pixels: np.ndarray | None,
) -> dict[int, Any]:
    """Draws the boxes; returns labels of those with the strongest attention, by region."""
    from matplotlib.patches import Rectangle

    _set_up_canvas(axes, size)
    axes.set_anchor("N")  # a long sentence's heat map is far higher
    if pixels is not None:
        axes.imshow(pixels, extent=(0, size[0], size[1], 0))
    strongest = np.argsort(-attention, kind="stable")
    strength = strengths(attention)
    for i in strongest[::-1]:  # the strongest on top
        x0, y0, x1, y1 = boxes[i]
        for colour, filled, alpha in (
            (_SHADE, True, 0.55 * strength[i] ** 2),
            ("#333333", False, 0.35 + 0.65 * strength[i]),
        ):
            axes.add_patch(
                Rectangle(
                    (x0, y0), x1 - x0, y1 - y0, fill=filled, color=colour, alpha=alpha, lw=0.5 + 2.5 * strength[i]
                )
            )
    unknown_note = "" if explanation.known[word] else " (unknown)"
    axes.set_title(f"{_of_word(explanation, word)}{unknown_note}{view}", **_PLAIN)
    return {
        int(i): _label(axes, f"{explanation.regions[i]} {i}: {attention[i]:.2f}", 8) for i in strongest[:_BOXES_NAMED]
    }


def _of_word(explanation: Explanation, word: int) -> str:
    """What a word's row of :meth:`Explanation.of_words` is."""
    if not explanation.n_steps:
        return "attention of the sentence (p)"
    return f"attention {'of' if explanation.t2i else 'of regions to'} “{explanation.words[word]}”"


def _step_note(explanation: Explanation, step: int) -> str:
    return f", step {step + 1} of {explanation.n_steps}" if explanation.n_steps else ""


def _draw_heat_map(
    figure: Any, axes: Any, explanation: Explanation, word: int, attention: np.ndarray, view: str
) -> None:
    heat_map = axes.imshow(attention, aspect="auto", cmap="cividis", vmin=0)
    words = [f"▸ {text}" if i == word else text for i, text in enumerate(explanation.words)]
    axes.set_yticks(range(len(words)), words, **_PLAIN)
    regions = [f"{name} {i}" for i, name in enumerate(explanation.regions)]
    axes.set_xticks(range(len(regions)), regions, rotation=90, fontsize=7, **_PLAIN)
    title = "attention of words (rows) to regions" if explanation.t2i else "attention of regions to words (rows)"
    if not explanation.n_steps:
        title = "attention of the sentence (p), the same for each word"
    axes.set_title(f"{title}{view}")
    figure.colorbar(heat_map, ax=axes, pad=0.01, aspect=max(20, 1.4 * len(words)))  # as wide beside a long sentence


def _draw_relations(
    axes: Any,
    explanation: Explanation,
    word: int,
    highlighted: Sequence[HighlightedRelation],
    strongest: Sequence[Relation],
    size: Point,
) -> dict[int, Any]:
    """Lists the relations, those that the word highlights first; returns labels of their regions, by region."""
    _set_up_canvas(axes, size)
    axes.set_anchor("W")
    axes.set_title("relations of the graphs")
    blocks = []
    if highlighted:
        lines = [
            f"{100 * one.share:.1f} % ({one.share / max(one.mean_share, 1e-12):.1f} ×): "
            f"{relation_text(explanation, one.relation)}"
            for one in highlighted
        ]
        title = f"{_of_word(explanation, word)} that came along relations (× mean of the words)"
        blocks.append((title, lines, _SHADE))
    if strongest:
        lines = [f"{one.attention:.2f} {one.kind}: {relation_text(explanation, one)}" for one in strongest]
        blocks.append(("the largest attention" + (" of the others" if highlighted else ""), lines, "black"))
    top = 1.0
    for title, lines, colour in blocks:
        text = "\n".join([title, *(textwrap.shorten(line, _MAX_CHARACTERS, placeholder=" …") for line in lines)])
        axes.text(
            1.03, top, text, va="top", fontsize=7, color=colour, transform=axes.transAxes, linespacing=1.6, **_PLAIN
        )
        top -= (len(lines) + 2) * _LINE_HEIGHT
    regions = dict.fromkeys(
        end for one in (*(x.relation for x in highlighted), *strongest) for end in (one.subject, one.target)
    )
    return {i: _label(axes, f"{explanation.regions[i]} {i}", 7) for i in regions}


def _draw_arrows(
    axes: Any,
    highlighted: Sequence[HighlightedRelation],
    strongest: Sequence[Relation],
    positions: dict[int, np.ndarray],
) -> None:
    """Draws an arrow from subject to object for each relation; those that the word highlights are on top."""
    largest_attention = max((one.attention for one in strongest), default=1.0)
    arrows = [(one, _EDGE_COLOURS[one.kind], 0.6 + 1.4 * one.attention / largest_attention) for one in strongest[::-1]]
    largest_share = max((one.share for one in highlighted), default=1.0)
    arrows += [(one.relation, _SHADE, 1.5 + 2.0 * one.share / largest_share) for one in highlighted[::-1]]
    for relation, colour, width in arrows:
        arrow_style = {
            "arrowstyle": "-|>,head_length=0.5,head_width=0.2",
            "color": colour,
            "ls": _EDGE_LINES[relation.kind],
            "lw": width,
            "connectionstyle": "arc3,rad=0.12",
            "shrinkA": 0,
            "shrinkB": 1,
        }
        start, end = positions[relation.subject], positions[relation.target]
        axes.annotate("", xy=_edge_point(end, start), xytext=_edge_point(start, end), arrowprops=arrow_style)


def _edge_point(box: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Where the line from the middle of a box to that of another leaves it."""
    middle, half = _centre(box), (box[2:] - box[:2]) / 2
    along = _centre(other) - middle
    reach = min((h / abs(x) for h, x in zip(half.tolist(), along.tolist(), strict=True) if x), default=0.0)
    return middle + min(reach, 0.5) * along


def _draw_terms(axes: Any, explanation: Explanation) -> None:
    names = [TERM_TITLES[term.name] for term in explanation.terms]
    values = [term.contribution for term in explanation.terms]
    axes.barh(range(len(names)), values, color="#35618f")
    for i, term in enumerate(explanation.terms):
        text = f" {term.weight:.3f} × {term.value:.3f} = {term.contribution:.3f}"
        axes.text(max(0.0, term.contribution), i, text, va="center")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.axvline(0, color="#333333", lw=0.8)
    low, high = min(0.0, *values), max(0.0, *values)
    axes.set_xlim(low - 0.05 * (high - low), high + 0.75 * (high - low or 1))  # the labels stand at the right
    axes.set_title(f"terms of the score: they sum to {explanation.score:.3f}")
