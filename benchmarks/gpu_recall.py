"""The rSum of a GPU's precisions on real features, from a file beside the sources (see ``gpu_measures.py``).

``python -m benchmarks.gpu_recall MODEL SPLIT`` writes that file: a model's encoding of a split, in float16.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu_timing import FEATURES, Rows, Run
from benchmarks.training import FORMS
from cmsei_fast import recall_metrics, score_matrix
from cmsei_fast.engines.eight_bits import FORMATS


def write(directory: str, split: str, path: Path = FEATURES) -> None:
    """Writes a model's encoding of a split: rows, lengths, and the map of captions to images."""
    from cmsei_fast import CMSEI
    from cmsei_fast.commands.sources import load_split

    model, data = CMSEI.from_pretrained(directory), load_split(split)
    sides = {"images": model.encode_images(data), "captions": model.encode_captions(data.captions)}
    arrays = {key: side.rows.half().numpy(force=True) for key, side in sides.items()}
    arrays |= {f"{key.removesuffix('s')}_lengths": side.lengths.numpy() for key, side in sides.items()}
    np.savez(path, **arrays, caption_to_image=data.caption_to_image)


def recall(bench: Run, path: Path = FEATURES) -> Rows:
    """rSum in the run's dtype and in 8 bits."""
    with np.load(path) as arrays:
        images, captions = (
            torch.from_numpy(arrays[key]).to(bench.device, bench.dtype) for key in ("images", "captions")
        )
        lengths, owner = [arrays[f"{key}_lengths"] for key in ("caption", "image")], arrays["caption_to_image"]
    rows: Rows = {}
    for name in ("scan", "cmsei"):

        def rsum(precision: str | None, name: str = name) -> float:
            scores = score_matrix(
                images, captions, *lengths, scorer=FORMS[name][0], engine=bench.engine, precision=precision
            )
            return recall_metrics(scores, caption_to_image=owner).rsum

        rows[f"{name}_recall"] = {"rsum": rsum(None), **{f"{x}_rsum": rsum(x) for x in FORMATS}}
    return rows


if __name__ == "__main__":
    write(*sys.argv[1:3])
