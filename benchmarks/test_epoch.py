"""Seconds per training epoch of the whole model: both graphs, two refinement steps, all five terms, InfoNCE."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.report import Report
from benchmarks.settings import QUICK
from cmsei_fast import CMSEI, ModelConfig, PairScorer
from cmsei_fast.data import Split, Vocabulary, split_from_scenes, synthetic_scenes
from cmsei_fast.training import TrainConfig, train

# As many images, regions, relations and captions as Flickr30K's validation split has as scene graphs.
IMAGES, REGIONS, RELATIONS, CAPTIONS = (32 if QUICK else 1014), 36, 25, 5
WORDS = 12


def split() -> Split:
    """Generated images with random relations and captions of Flickr30K's mean length."""
    made = synthetic_scenes(-(-IMAGES // 4), regions=REGIONS, captions_per_image=CAPTIONS, width=8)
    full = split_from_scenes(made.scenes).subset(np.arange(IMAGES))
    rng = np.random.default_rng(0)
    triplets = np.stack(
        [rng.integers(0, high, IMAGES * RELATIONS) for high in (REGIONS, len(full.predicate_names), REGIONS)], 1
    )
    captions = tuple(" ".join(caption.split()[:WORDS]) for caption in full.captions)
    return Split(
        ids=full.ids,
        offsets=full.offsets,
        captions=captions,
        caption_to_image=full.caption_to_image,
        boxes=full.boxes,
        sizes=full.sizes,
        labels=full.labels,
        object_names=full.object_names,
        relations=triplets.astype(np.int32),
        relation_offsets=np.arange(IMAGES + 1) * RELATIONS,
        predicate_names=full.predicate_names,
    )


def test_epoch(benchmark: Any, report: Report, tmp_path: Path) -> None:
    """The second and third of three epochs, so that nothing is loaded while the clock runs."""
    learned = split()
    config = ModelConfig(
        width=256,
        object_names=learned.object_names,
        predicate_names=learned.predicate_names,
        word_residual=True,
        dropout=0.2,
        scorer=PairScorer.cmsei(),
    )
    torch.manual_seed(0)
    model = CMSEI(config, Vocabulary.build(learned.captions))
    training = TrainConfig(epochs=1, batch_size=128, loss="infonce", schedule="constant")

    def epoch(number: int) -> float:
        start = time.perf_counter()
        train(model, learned, None, tmp_path / str(number), training, progress=False)
        return time.perf_counter() - start

    epoch(0)
    seconds = [benchmark.pedantic(epoch, (1,), rounds=1), epoch(2)]
    report.add("epoch", seconds, captions=len(learned.captions), batch=128, width=256)
    report.judge("epoch")
