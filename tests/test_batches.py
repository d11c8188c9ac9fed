"""The order of captions, and the shares of processes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from training_runs import tiny_split

from cmsei_fast.training.batches import Batches

SPLIT = tiny_split(3)  # 12 images, 24 captions
TOKENS = [[i + 4] * (1 + i % 3) for i in range(24)]  # a caption is told by its token


@pytest.mark.parametrize("neighbours", [1, 4])
def test_an_epoch_has_each_caption_once(neighbours):
    batches = Batches(SPLIT, TOKENS, 6, seed=0, neighbours=neighbours)
    seen = []
    for step in range(len(batches)):
        share = batches[0, step]
        captions = [int(own[0]) - 4 for own in share.captions.tokens.split(share.captions.lengths.tolist())]
        seen += captions
        images = np.unique(SPLIT.caption_to_image[captions])
        assert share.image_counts == (len(images),)
        assert images[share.owner].tolist() == SPLIT.caption_to_image[captions].tolist()
        rows = np.concatenate([SPLIT.features[SPLIT.offsets[i] : SPLIT.offsets[i + 1]] for i in images])
        assert torch.equal(share.images.features, torch.from_numpy(rows))
    assert sorted(seen) == list(range(24))
    assert batches.order(0).tolist() != batches.order(1).tolist()


def test_neighbours_come_together():
    image = SPLIT.caption_to_image[Batches(SPLIT, TOKENS, 4, seed=1, neighbours=4).order(0)].reshape(-1, 4)
    assert (image // 4 == image[:, :1] // 4).all()
    assert all(len(set(row)) == 4 for row in image.tolist())


@pytest.mark.parametrize("world", [2, 3])
def test_shares_make_the_whole(world):
    whole = Batches(SPLIT, TOKENS, 7, seed=0)[2, 1]
    shares = [Batches(SPLIT, TOKENS, 7, seed=0, rank=rank, world=world)[2, 1] for rank in range(world)]
    assert torch.equal(torch.cat([s.images.features for s in shares]), whole.images.features)
    assert torch.equal(torch.cat([s.captions.tokens for s in shares]), whole.captions.tokens)
    for share in shares:
        assert torch.equal(share.owner, whole.owner)
        assert share.image_counts == tuple(len(s.images) for s in shares)
        assert share.caption_counts == tuple(len(s.captions) for s in shares)


def test_a_process_without_an_image_has_one_that_counts_for_none():
    few = dataclasses.replace(SPLIT, caption_to_image=np.arange(24) % 2)
    shares = [Batches(few, TOKENS, 6, seed=0, rank=rank, world=3)[0, 0] for rank in range(3)]
    assert [share.image_counts for share in shares] == [(1, 1, 0)] * 3
    assert [len(share.images) for share in shares] == [1, 1, 1]
    assert [len(share.captions) for share in shares] == [2, 2, 2]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_draws_nothing_from_the_generator_of_dropout(workers):
    before = torch.get_rng_state()
    batches = Batches(SPLIT, TOKENS, 8, seed=0)
    loaded = list(batches.loader(1, 1, workers, pin=False))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(loaded) == 2
    for step, share in enumerate(loaded, 1):
        assert torch.equal(share.captions.tokens, batches[1, step].captions.tokens)


def test_too_little_to_share():
    with pytest.raises(ValueError, match=r"^training: expected a split with captions, got none$"):
        Batches(SPLIT, [], 4, seed=0)
    with pytest.raises(ValueError, match=r"^batch_size: expected a caption for each of 3 processes, got a batch of 2$"):
        Batches(SPLIT, TOKENS, 2, seed=0, rank=0, world=3)
