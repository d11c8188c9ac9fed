"""An explanation as a picture: boxes shaded by one word, the heat map, the strongest edges, the terms of the score."""

from __future__ import annotations

import importlib.util
import os
import textwrap
from typing import Any

import numpy as np

from .explanation import TERM_TITLES, Explanation

SUFFIXES = (".png", ".svg")
_BOXES_NAMED = 5
_EDGES_SHOWN = 12
_SHADE = "#d1580f"
_EDGE_COLOURS = {"spatial": "#35618f", "semantic": "#a3310f", "implicit": "#4f7942"}
_EDGE_LINES = {"spatial": "solid", "semantic": "dashed", "implicit": "dotted"}
# Captions and names are plain text: a dollar sign starts no formula.
_PLAIN = {"parse_math": False}


def check_picture(path: str | os.PathLike[str], name: str = "path") -> None:
    """A picture can be drawn into a file of that name.

    Raises:
        ValueError: its suffix is neither ``.png`` nor ``.svg``, naming the argument ``name``.
        ModuleNotFoundError: matplotlib is not installed.
    """
    if os.path.splitext(os.fspath(path))[1].lower() not in SUFFIXES:
        raise ValueError(f"{name}: expected a file that ends in .png or .svg, got {os.fspath(path)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError(f"{name}: pictures need matplotlib: pip install 'cmsei-fast[plot]'")


def read_image(path: str | os.PathLike[str], name: str = "image") -> np.ndarray:
    """(H, W, 3) uint8 pixels of an image file.

    Raises:
        ValueError: there is no such file or it is no image, naming the argument ``name``.
        ModuleNotFoundError: Pillow is not installed.
    """
    if importlib.util.find_spec("PIL") is None:
        raise ModuleNotFoundError(f"{name}: images need Pillow: pip install 'cmsei-fast[plot]'")
    from PIL import Image

    try:
        with Image.open(path) as opened:
            return np.asarray(opened.convert("RGB"))
    except OSError as error:
        raise ValueError(f"{name}: expected an image file, got {os.fspath(path)} ({error})") from None


def draw(
    explanation: Explanation,
    path: str | os.PathLike[str],
    word: str | int | None = None,
    image: str | os.PathLike[str] | None = None,
) -> None:
    """Draws one pair into a PNG or an SVG, by the suffix; written whole or not at all.

    Args:
        explanation: of the pair.
        path: ends in ``.png`` or ``.svg``.
        word: whose attention (last step) shades the boxes, by itself or by its place; the telling one if None.
        image: the image's file; without it the boxes stand on an empty canvas, and without boxes regions are tiles.

    Raises:
        TypeError: ``explanation`` is none.
        ValueError: for another suffix, a word that the caption does not have, or a file that is no image.
        ModuleNotFoundError: matplotlib (or Pillow, for an image) is not installed.
        OSError: the directory is not there or cannot be written.
    """
    if not isinstance(explanation, Explanation):
        raise TypeError(f"explanation: expected an Explanation, got {type(explanation).__name__}")
    check_picture(path)
    chosen = explanation.telling_word() if word is None else explanation.find_word(word)
    pixels = None if image is None else read_image(image)
    from ..data.files import check_target, replacing

    check_target(path)
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n_word = len(explanation.words)
    with matplotlib.rc_context({"svg.hashsalt": "cmsei_fast", "font.size": 9}):
        figure = Figure(figsize=(15, 9 + 0.16 * max(0, n_word - 14)), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(2, 2, width_ratios=(1, 1.25))
        title = textwrap.fill(f"{explanation.image}: {explanation.caption}", 150)
        figure.suptitle(title, **_PLAIN)
        boxes, size = _layout(explanation)
        _shaded(figure.add_subplot(grid[0, 0]), explanation, chosen, boxes, size, pixels)
        _heat_map(figure, figure.add_subplot(grid[0, 1]), explanation, chosen)
        _graph(figure.add_subplot(grid[1, 0]), explanation, boxes, size)
        _bars(figure.add_subplot(grid[1, 1]), explanation)
        kind = os.path.splitext(os.fspath(path))[1].lower()[1:]
        with replacing(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=110, metadata={"Date": None} if kind == "svg" else None)


def _layout(explanation: Explanation) -> tuple[np.ndarray, tuple[float, float]]:
    """Boxes (R, 4) and the size of the canvas: the explanation's own, or a grid of tiles."""
    if explanation.boxes is not None and explanation.size is not None:
        return explanation.boxes, explanation.size
    n = len(explanation.regions)
    columns = int(np.ceil(np.sqrt(n)))
    row, column = np.divmod(np.arange(n), columns)
    tiles = np.stack([column + 0.05, row + 0.05, column + 0.95, row + 0.95], axis=1) * 100
    return tiles, (100.0 * columns, 100.0 * float(row[-1] + 1))


def _canvas(axes: Any, size: tuple[float, float]) -> None:
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0), aspect="equal", xticks=[], yticks=[])
    axes.set_facecolor("#f6f5f1")


def _shaded(
    axes: Any,
    explanation: Explanation,
    word: int,
    boxes: np.ndarray,
    size: tuple[float, float],
    pixels: np.ndarray | None,
) -> None:
    from matplotlib.patches import Rectangle

    _canvas(axes, size)
    if pixels is not None:
        axes.imshow(pixels, extent=(0, size[0], size[1], 0))
    attention = explanation.of_words()[word]
    best = np.argsort(-attention, kind="stable")
    strength = attention / attention.max()
    for i in best[::-1]:  # the strongest on top
        x0, y0, x1, y1 = boxes[i]
        for colour, filled, alpha in ((_SHADE, True, 0.5 * strength[i]), ("#333333", False, 0.35 + 0.65 * strength[i])):
            axes.add_patch(
                Rectangle(
                    (x0, y0), x1 - x0, y1 - y0, fill=filled, color=colour, alpha=alpha, lw=0.5 + 2.5 * strength[i]
                )
            )
    label = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
    for i in best[:_BOXES_NAMED][::-1]:
        text = f"{explanation.regions[i]} {i}: {attention[i]:.2f}"
        axes.text(boxes[i, 0], boxes[i, 1], text, va="top", fontsize=8, bbox=label, clip_on=True, **_PLAIN)
    known = "" if explanation.known[word] else " (unknown)"
    axes.set_title(f"where “{explanation.words[word]}”{known} looks, last step", **_PLAIN)


def _heat_map(figure: Any, axes: Any, explanation: Explanation, word: int) -> None:
    shown = axes.imshow(explanation.of_words(), aspect="auto", cmap="cividis", vmin=0)
    words = [f"▸ {text}" if i == word else text for i, text in enumerate(explanation.words)]
    axes.set_yticks(range(len(words)), words, **_PLAIN)
    regions = [f"{name} {i}" for i, name in enumerate(explanation.regions)]
    axes.set_xticks(range(len(regions)), regions, rotation=90, fontsize=7, **_PLAIN)
    axes.set_title("attention of words (rows) to regions, last step")
    figure.colorbar(shown, ax=axes, pad=0.01)


def _graph(axes: Any, explanation: Explanation, boxes: np.ndarray, size: tuple[float, float]) -> None:
    _canvas(axes, size)
    between = [edge for edge in explanation.edges if edge.region != edge.neighbour]
    strongest = sorted(between, key=lambda edge: -edge.attention)[:_EDGES_SHOWN]
    axes.set_title(f"strongest {len(strongest)} edges of the graphs" if strongest else "no edges between regions")
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    label = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
    for edge in strongest[::-1]:
        colour, line = _EDGE_COLOURS[edge.kind], _EDGE_LINES[edge.kind]
        width = 0.8 + 2.2 * edge.attention / strongest[0].attention
        ends = (edge.neighbour, edge.region)  # what is gathered flows along the arrow
        arrow = {"arrowstyle": "->", "color": colour, "lw": width, "ls": line, "connectionstyle": "arc3,rad=0.15"}
        axes.annotate("", xy=centres[ends[1]], xytext=centres[ends[0]], arrowprops=arrow)
    for i in sorted({end for edge in strongest for end in (edge.region, edge.neighbour)}):
        text = f"{explanation.regions[i]} {i}"
        axes.text(*centres[i], text, ha="center", va="center", fontsize=7, bbox=label, clip_on=True, **_PLAIN)
    lines = []
    for edge in strongest:
        subject, target = (edge.neighbour, edge.region) if edge.reverse else (edge.region, edge.neighbour)
        lines.append(
            f"{edge.attention:.2f} {edge.kind}: {explanation.regions[subject]} {subject} {edge.name} "
            f"{explanation.regions[target]} {target}"
        )
    axes.set_xlabel("\n".join(lines), loc="left", fontsize=7, **_PLAIN)


def _bars(axes: Any, explanation: Explanation) -> None:
    names = [TERM_TITLES[term.name] for term in explanation.terms]
    values = [term.contribution for term in explanation.terms]
    axes.barh(range(len(names)), values, color="#35618f")
    for i, term in enumerate(explanation.terms):
        told = f" {term.weight:.3f} × {term.value:.3f} = {term.contribution:.3f}"
        axes.text(max(0.0, term.contribution), i, told, va="center")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.axvline(0, color="#333333", lw=0.8)
    low, high = min(0.0, *values), max(0.0, *values)
    axes.set_xlim(low - 0.05 * (high - low), high + 0.5 * (high - low or 1))  # the labels stand at the right
    axes.set_title(f"terms of the score: they sum to {explanation.score:.3f}")
