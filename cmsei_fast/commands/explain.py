"""``cmsei-fast explain``: what made the score of one image and one sentence."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .evaluate import check_file
from .sources import load_split

if TYPE_CHECKING:
    from ..data import Split
    from ..report import Explanation

SHOWN = 3


def add_parser(commands: Any) -> None:
    """Adds ``explain``."""
    explain = commands.add_parser(
        "explain",
        help="which regions each word attends to, and what makes the score of a pair",
        description="Prints the terms of one pair's score and the regions that each word attends to in the last step.",
    )
    explain.add_argument("path", help="split: .h5, .jsonl or .jsonl.gz")
    explain.add_argument("--model", required=True, metavar="DIR", help="a saved model")
    explain.add_argument("--image", required=True, help="its name in the split, or its place from 0")
    explain.add_argument("--caption", help="a sentence; default: the image's own first caption")
    explain.add_argument("--json", metavar="OUT", help="write all steps, weights, edges and terms to this file")
    explain.set_defaults(run=_explain)


def _explain(arguments: argparse.Namespace) -> int:
    if arguments.json is not None:
        check_file("--json", arguments.json)
    import numpy as np

    split = load_split(arguments.path)
    image = split.subset(np.array([_place(split, arguments.image)]))
    caption = arguments.caption
    if caption is None:
        if not image.captions:
            raise ValueError(f"--caption: expected a sentence (image {image.ids[0]} has none of its own), got none")
        caption = image.captions[0]
    from ..model import CMSEI
    from ..report import explain

    found = explain(CMSEI.from_pretrained(arguments.model), image, caption)
    print(_told(found))
    if arguments.json is not None:
        found.save(arguments.json)
    return 0


def _place(split: Split, image: str) -> int:
    """Place of an image given by its name or by its place.

    Raises:
        ValueError: the split has no such image.
    """
    if image in split.ids:
        return split.ids.index(image)
    if image.isascii() and image.isdigit() and int(image) < len(split):
        return int(image)
    raise ValueError(f"--image: expected a name in the split or a place from 0 to {len(split) - 1}, got {image}")


def _told(found: Explanation) -> str:
    """The terms, and for each word the regions that it looks at most."""
    from ..report.explanation import TERM_TITLES

    lines = [f"{found.image}: {found.caption}", ""]
    for term in found.terms:
        figures = f"{term.weight:7.3f} × {term.value:7.3f} = {term.contribution:7.3f}"
        lines.append(f"{TERM_TITLES[term.name]:26}{figures}")
    lines += [f"{'score':26}{found.score:27.3f}", ""]
    for word, known, row in zip(found.words, found.known, found.of_words(), strict=True):
        best = sorted(range(len(row)), key=lambda i: -row[i])[:SHOWN]
        regions = ", ".join(f"{found.regions[i]} {i}: {row[i]:.2f}" for i in best)
        lines.append(f"{word + ('' if known else ' (unknown)'):26}{regions}")
    return "\n".join(lines)
