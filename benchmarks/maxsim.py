"""MaxSim beside the package ``maxsim-cpu``, one call per caption: ``python -m benchmarks.maxsim <threads>``.

Prints JSON. It runs in its own process and at ColBERT's width of 128, since that package has been seen to crash at
D = 1024.
"""

from __future__ import annotations

import importlib
import json
import sys

import numpy as np
import torch
from torch import Tensor

from benchmarks.captions import Features, features
from benchmarks.paired import agree, timed
from benchmarks.settings import SIZES
from cmsei_fast import PairScorer, score_matrix

WIDTH = 128


def main() -> None:
    """Alternates both on the same features."""
    library = importlib.import_module("maxsim_cpu")
    torch.set_num_threads(int(sys.argv[1]))

    def ours(data: Features) -> Tensor:
        return score_matrix(data.images, data.words, data.lengths, scorer=PairScorer.maxsim(), engine="native")

    def other(data: Features) -> Tensor:
        images, queries = data.images.numpy(), [x.numpy() for x in data.words.split(data.lengths.tolist())]
        return torch.from_numpy(np.stack([library.maxsim_scores(query, images) for query in queries], 1))  # (N, M)

    small = features(5, 7, WIDTH)
    agree("maxsim_cpu", ours(small), other(small), 1e-5)
    data = features(4 * SIZES.images, 4 * SIZES.captions, WIDTH)
    ours(data)
    rounds = [(timed(lambda: other(data)), timed(lambda: ours(data))) for _ in range(SIZES.least)]
    print(json.dumps({"ours": [b for _, b in rounds], "other": [a for a, _ in rounds], "pairs": data.pairs}))


if __name__ == "__main__":
    main()
