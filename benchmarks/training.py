"""One training step on a batch of matching images and captions: scores, hinge loss, gradients of the features.

``python -m benchmarks.training <native|field> <threads>`` prints the peak memory of a step of SCAN t2i beyond the
features.
"""

from __future__ import annotations

import json
import sys

import torch
from torch import Tensor

from benchmarks import field
from benchmarks.captions import Features, features
from benchmarks.memory import peak_bytes
from benchmarks.settings import SIZES
from cmsei_fast import PairScorer, pair_score

FORMS = {
    "scan": (PairScorer.scan_t2i(), field.scan_t2i, field.hinge),
    "scan_hardest": (PairScorer.scan_t2i(), field.scan_t2i, field.hardest_hinge),
    "maxsim": (PairScorer.maxsim(), field.maxsim, field.hinge),
    "cmsei": (PairScorer.cmsei(), field.cmsei, field.hinge),
}


def step(batch: Features, form: str = "scan", engine: str = "native") -> tuple[Tensor, Tensor]:
    """Gradients of images (N, R, D) and packed words (ΣL, D) by an engine."""
    images, words = batch.images.detach().requires_grad_(), batch.words.detach().requires_grad_()
    scores = pair_score(
        images.flatten(0, 1), words, batch.region_offsets, batch.word_offsets, scorer=FORMS[form][0], engine=engine
    )
    d_images, d_words = torch.autograd.grad(FORMS[form][2](scores), (images, words))
    return d_images, d_words


def field_step(batch: Features, form: str = "scan") -> tuple[Tensor, Tensor]:
    """The same by the field's code and autograd; the loss in float32."""
    images, words = batch.images.detach().requires_grad_(), batch.words.detach().requires_grad_()
    lengths = batch.lengths.tolist()
    captions = torch.nn.utils.rnn.pad_sequence(words.split(lengths), batch_first=True)
    scores = FORMS[form][1](images, captions, lengths)
    d_images, d_words = torch.autograd.grad(FORMS[form][2](scores.float()), (images, words))
    return d_images, d_words


def main() -> None:
    """Measures one side after a step on a tiny batch, which loads what every step needs."""
    measured = {"native": step, "field": field_step}[sys.argv[1]]
    torch.set_num_threads(int(sys.argv[2]))
    measured(features(2, 2, 8))
    batch = features(SIZES.batch, SIZES.batch, SIZES.width)
    before = peak_bytes()
    measured(batch)
    print(json.dumps({"bytes": peak_bytes() - before}))


if __name__ == "__main__":
    main()
