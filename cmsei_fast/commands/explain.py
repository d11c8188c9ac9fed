"""``cmsei-fast explain``: explains the score of one image and one sentence."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .paths import Once, check_outputs, given_path
from .printable import printable
from .scoring_flags import add_device_flag
from .sources import find_image, load_split

if TYPE_CHECKING:
    from ..report import Explanation

MAX_REGIONS = 3


def add_parser(commands: Any) -> None:
    """Adds the command ``explain``."""
    explain = commands.add_parser(
        "explain",
        help="show which regions each word attends to and what makes up the score of a pair",
        description="Prints the terms of the score of one image and one sentence, and the regions that each word "
        "attends to.",
    )
    explain.add_argument("path", type=given_path, help="split that holds the image (.h5, .jsonl or .jsonl.gz)")
    explain.add_argument(
        "--model", action=Once, type=given_path, required=True, metavar="DIR", help="directory of a saved model"
    )
    explain.add_argument(
        "--image",
        action=Once,
        required=True,
        help="image to explain: its name in the split, or its index, counted from 0",
    )
    explain.add_argument(
        "--caption", action=Once, metavar="SENTENCE", help="sentence to explain (default: the image's first caption)"
    )
    explain.add_argument(
        "--json",
        type=given_path,
        metavar="OUT",
        help="also write all steps, weights, edges and terms to this JSON file",
    )
    explain.add_argument(
        "--page",
        type=given_path,
        metavar="HTML",
        help="also write an HTML page on which each word highlights the regions that it attends to",
    )
    explain.add_argument(
        "--picture",
        type=given_path,
        metavar="OUT",
        help="also draw the pair to this .png or .svg file (needs the extra plot)",
    )
    explain.add_argument(
        "--word",
        help="word of the caption whose attention to show in the picture, and first on the page (default: the one with "
        "the most uneven attention)",
    )
    explain.add_argument(
        "--step", type=int, metavar="N", help="attention step to show, counted from 1 (default: the last)"
    )
    explain.add_argument(
        "--through-graph",
        action="store_true",
        help="trace attention through the graphs to the regions it comes from; the page can show both",
    )
    explain.add_argument(
        "--image-file",
        type=given_path,
        metavar="FILE",
        help="image file to draw under the boxes (needs the extra plot)",
    )
    add_device_flag(explain)
    explain.set_defaults(run=_explain)


def _explain(arguments: argparse.Namespace) -> int:
    _check_outputs(arguments)
    import numpy as np

    from ..devices import process_device

    device = process_device(arguments.device)
    split = load_split(arguments.path)
    image = split.subset(np.array([find_image(split, arguments.image)]))
    caption = arguments.caption
    if caption is None:
        if not image.captions:
            raise ValueError(f"--caption: expected a sentence (image {image.ids[0]} has none of its own), got none")
        caption = image.captions[0]
    from ..model import CMSEI
    from ..report import explain

    found = explain(CMSEI.from_pretrained(arguments.model, device), image, caption)
    if arguments.word is not None:
        found.find_word(arguments.word)
    step = _step(found, arguments.step)
    from ..report import draw, save_page

    try:  # write the files first: printing fails if the reader has left
        if arguments.json is not None:
            found.save(arguments.json)
        for path, write in ((arguments.page, save_page), (arguments.picture, draw)):
            if path is not None:
                write(found, path, arguments.word, arguments.image_file, step, through_graph=arguments.through_graph)
    finally:
        print(_format(found, step, arguments.through_graph))
    return 0


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Checks the flags before any work.

    Raises:
        OSError: a file cannot be written.
        ValueError: a flag needs another one, two files are the same, or the image cannot be read.
        ModuleNotFoundError: matplotlib or Pillow is not installed.
    """
    from ..data.strings import check_strings

    check_strings(lambda i: ("--caption", "--word")[i], [arguments.caption or "", arguments.word or ""])
    check_outputs(
        {"--json": arguments.json, "--page": arguments.page, "--picture": arguments.picture},
        {"path": arguments.path, "--image-file": arguments.image_file},
    )
    if arguments.picture is None and arguments.page is None:
        for flag, value in (("--word", arguments.word), ("--image-file", arguments.image_file)):
            if value is not None:
                raise ValueError(f"--picture or --page: expected a file ({flag} needs one), got none")
    from ..report.draw_explanation import check_picture
    from ..report.image_file import read_image

    if arguments.picture is not None:
        check_picture(arguments.picture, "--picture")
    if arguments.image_file is not None:
        read_image(arguments.image_file, "--image-file")


def _step(found: Explanation, step: int | None) -> int:
    """The index, from 0, of the step of ``--step``.

    Raises:
        ValueError: the score has no such step.
    """
    last = max(1, found.n_steps)
    if step is not None and not 1 <= step <= last:
        raise ValueError(f"--step: expected a step from 1 to {last}, got {step}")
    return (step or last) - 1


def _format(found: Explanation, step: int, through_graph: bool) -> str:
    """The text to print: the terms, and for each word the regions that it attends to most."""
    from ..report.explanation import TERM_TITLES

    lines = [printable(found.title), ""]
    for term in found.terms:
        figures = f"{term.weight:7.3f} × {term.value:7.3f} = {term.contribution:7.3f}"
        lines.append(f"{TERM_TITLES[term.name]:30}{figures}")
    lines += [f"{'score':30}{found.score:27.3f}", ""]
    attention = found.of_words(step, through_graph=through_graph)
    for word, known, row in zip(found.words, found.known, attention, strict=True):
        best = sorted(range(len(row)), key=lambda i: -row[i])[:MAX_REGIONS]
        regions = ", ".join(f"{found.regions[i]} {i}: {row[i]:.2f}" for i in best)
        lines.append(f"{word + ('' if known else ' (unknown)'):30}{regions}")
    return "\n".join(lines)
