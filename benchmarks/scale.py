"""Time and memory of scoring more and more pairs: ``python -m benchmarks.scale <threads>`` prints JSON.

All sizes are views of one set of features and write into one matrix. So the inputs take the same memory at every size,
and the peak after each shows what scoring itself took.
"""

from __future__ import annotations

import json
import statistics
import sys

import torch

from benchmarks.captions import features
from benchmarks.memory import peak_bytes
from benchmarks.paired import timed
from benchmarks.settings import SIZES
from cmsei_fast import PairScorer, score_matrix


def main() -> None:
    """Runs ascending sizes, the smallest again before and after each of them."""
    torch.set_num_threads(int(sys.argv[1]))
    scorer = PairScorer.scan_t2i()
    everything = features(*SIZES.scale[-1], SIZES.width)
    parts = [everything.first(*size) for size in SIZES.scale]
    out = torch.zeros(parts[-1].pairs)

    def run(i: int) -> float:
        """Seconds per pair with a caption of mean length: the words of the sizes' captions differ a little."""
        part = parts[i]
        matrix = out[: part.pairs].view(len(part.images), -1)
        seconds = timed(
            lambda: score_matrix(part.images, part.words, part.lengths, scorer=scorer, engine="native", out=matrix)
        )
        return seconds / (len(part.images) * int(part.lengths.sum())) * float(everything.lengths.mean())

    tiny = everything.first(2, 2)
    score_matrix(tiny.images, tiny.words, tiny.lengths, scorer=scorer, engine="native")
    before = peak_bytes()
    times: list[list[float]] = [[] for _ in parts]
    run(0)
    peaks = []
    for i in range(len(parts)):
        repeats = 1 if i + 1 == len(parts) else 3  # the largest takes long enough to be steady in itself
        times[i] += [run(i) for _ in range(repeats)]
        peaks.append(peak_bytes() - before)
        times[0] += [run(0) for _ in range(3)]
    medians = [statistics.median(x) for x in times]
    print(json.dumps({"seconds": medians, "peaks": peaks, "pairs": [part.pairs for part in parts]}))


if __name__ == "__main__":
    main()
