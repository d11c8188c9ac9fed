"""One process of several: ``python training_gradients.py`` prints how far their first step's gradients are from one's.

A line for each case: the loss's difference from that of the whole batch in one process, and the gradient's as a part of
its length. All is in float64, where rounding is far below what a wrong share, weight or order would do.
"""

from __future__ import annotations

import dataclasses

import torch
import training_runs
from torch import Tensor

from cmsei_fast import CMSEI, PairScorer
from cmsei_fast.data.batches import ImageBatch
from cmsei_fast.process_group import process_group, rank_and_world
from cmsei_fast.training.batches import Batches
from cmsei_fast.training.distributed import average_gradients
from cmsei_fast.training.mentions import find_mentions
from cmsei_fast.training.objective import Objective

SCAN = {"scorer": PairScorer.scan_t2i(), "relations": ()}
# Of the model, of training, and how many images have captions.
CASES = (
    (SCAN, {"warmup_epochs": 0}, 16),
    (SCAN, {"loss": "infonce", "smoothing": 0.1}, 16),
    ({"layers": 2, "word_residual": True}, {"warmup_epochs": 0, "grounding": 0.5}, 16),
    ({}, {"grounding": 0.5}, 2),  # a process has no image
    ({}, {"loss": "infonce", "grounding": 0.5}, 2),
)


def draw_regions(batch: ImageBatch) -> Tensor:
    """Which regions stay, by their features: the same ones in whichever process an image is."""
    assert batch.features is not None
    kept = batch.features[:, 0] > 0
    kept[batch.lengths.cumsum(0) - batch.lengths] = True
    return kept


def keep_all(batch: ImageBatch) -> Tensor:
    """All regions stay."""
    return torch.ones(int(batch.lengths.sum()), dtype=torch.bool)


def step(model: CMSEI, training: dict, images: int, rank: int, world: int) -> tuple[Tensor, Tensor]:
    """The loss of the first step in one process of so many, and the gradient of all parameters in a row."""
    split, config = training_runs.tiny_split(), training_runs.config(batch_size=10, **training)
    # Four captions in a row are the same, so that scores tie.
    captions = tuple(split.captions[i - i % 4] for i in range(len(split.captions)))
    owners = split.caption_to_image % images
    split = dataclasses.replace(split, captions=captions, caption_to_image=owners)
    tokens = [model.text.tokenize(caption) for caption in split.captions]
    mentions = find_mentions(model, split) if config.grounding else None
    batches = Batches(split, tokens, config.batch_size, 0, 1, rank, world, mentions)
    objective = Objective(model, config).double()
    objective.zero_grad()
    share = batches[0, 0]
    # An image that counts for none may keep more regions than those that count.
    model.draw_regions = draw_regions if share.image_counts[rank] else keep_all  # type: ignore[method-assign]
    loss = objective(share, config.warmup_epochs > 0)
    loss.backward()
    parameters = list(objective.parameters())
    if world > 1:
        average_gradients(parameters)
    return loss.detach(), torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])


def main() -> None:
    torch.set_num_threads(1)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign] - a loss is of float32 scores
    with process_group("cpu"):
        for structure, training, images in CASES:
            model = training_runs.tiny_model(training_runs.tiny_split(), **structure)
            loss, gradient = step(model, training, images, *rank_and_world())
            alone, expected = step(model, training, images, 0, 1)
            print(float((loss - alone).abs()), float((gradient - expected).norm() / expected.norm()))


if __name__ == "__main__":
    main()
