"""The explanation of a pair by a tiny model with every kind of graph, of a caption that is hard on a page."""

from __future__ import annotations

from training_runs import tiny_model, tiny_split

from cmsei_fast import explain
from cmsei_fast.report import Explanation

SPLIT = tiny_split(1)
NASTY = "</script><script>alert(1)</script> \"quotes\" 'n' <b>&amp; dog"


def explained() -> Explanation:
    """Of an image with one of its captions and :data:`NASTY` behind it."""
    model = tiny_model(SPLIT, relations=("implicit", "spatial", "semantic"), layers=2).eval()
    return explain(model, SPLIT.subset([1]), f"{SPLIT.captions[2]} {NASTY}")
