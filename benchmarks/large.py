"""Scoring at the sizes of MS-COCO and beyond, beside the bare product of the same data.

``python -m benchmarks.large <images> <captions> <slabs of all> <threads> <precision>`` prints JSON.

The images come in slabs. Each slab is first multiplied with all captions' words by ``torch.mm``, block by block into
one buffer, and then scored, so that what disturbs one of the two disturbs the other. A run with fewer slabs than all is
a shortened one. Features and the product are bfloat16 whatever the precision.
"""

from __future__ import annotations

import json
import sys

import torch

from benchmarks.captions import features
from benchmarks.memory import peak_bytes
from benchmarks.paired import timed
from benchmarks.settings import SIZES
from cmsei_fast import PairScorer, score_matrix

WORDS = 4096  # of a block of the bare product


def main() -> None:
    """Alternates both on one slab after another."""
    images, captions, slabs, threads = map(int, sys.argv[1:-1])
    how = {"scorer": PairScorer.scan_t2i(), "engine": "native", "precision": sys.argv[-1]}
    torch.set_num_threads(threads)
    slab = min(images, SIZES.slab)
    data = features(min(images, slabs * slab), captions, SIZES.width, dtype=torch.bfloat16)
    scores = torch.zeros(slab, captions)
    product = torch.zeros(slab * data.images.shape[1], WORDS, dtype=torch.bfloat16)
    warm = data.first(2, 2)
    score_matrix(warm.images, warm.words, warm.lengths, **how)
    before = peak_bytes()

    def bare(regions: torch.Tensor) -> None:
        for words in data.words.split(WORDS):
            torch.mm(regions, words.T, out=product[: len(regions), : len(words)])

    ours, other = [], []
    for part in data.images.split(slab):
        other.append(timed(lambda part=part: bare(part.flatten(0, 1))))
        out = scores[: len(part)]
        ours.append(timed(lambda part=part, out=out: score_matrix(part, data.words, data.lengths, out=out, **how)))
    print(
        json.dumps(
            {
                "ours": ours,
                "other": other,
                "share": len(data.images) / images,
                "pairs": images * captions,
                "peak": peak_bytes() - before,
                "finite": bool(torch.isfinite(scores).all()),
            }
        )
    )


if __name__ == "__main__":
    main()
