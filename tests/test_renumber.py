"""A split under another's names means the same."""

from __future__ import annotations

import numpy as np
import torch

from cmsei_fast import CMSEI, ModelConfig
from cmsei_fast.data import Vocabulary, split_from_scenes, synthetic_scenes
from cmsei_fast.data.renumber import renumber

MADE = synthetic_scenes(6, seed=4, width=8)
SPLIT = split_from_scenes(MADE.scenes)


def named(split):
    """Labels and relations by name, an unknown one as None."""
    labels = [split.object_names[i] if i >= 0 else None for i in split.labels]
    owner = np.repeat(np.arange(len(split)), np.diff(split.relation_offsets))
    relations = [
        (int(i), int(s), split.predicate_names[p], int(o)) for i, (s, p, o) in zip(owner, split.relations, strict=True)
    ]
    return labels, relations


def test_same_names_change_nothing():
    assert renumber(SPLIT, SPLIT.object_names, SPLIT.predicate_names) is SPLIT


def test_another_order_means_the_same():
    other = renumber(SPLIT, ["new", *reversed(SPLIT.object_names)], [*reversed(SPLIT.predicate_names), "new"])
    assert other.object_names[0] == "new"
    assert not np.array_equal(other.labels, SPLIT.labels)
    assert named(other) == named(SPLIT)


def test_names_that_are_missing():
    lost_object, lost_predicate = SPLIT.object_names[0], SPLIT.predicate_names[0]
    other = renumber(SPLIT, SPLIT.object_names[1:], SPLIT.predicate_names[1:])
    labels, relations = named(SPLIT)
    assert lost_object in labels
    assert any(r[2] == lost_predicate for r in relations)
    assert named(other) == (
        [None if label == lost_object else label for label in labels],
        [r for r in relations if r[2] != lost_predicate],
    )


def test_a_model_reads_names_not_numbers():
    torch.manual_seed(0)
    config = ModelConfig(
        width=16, heads=2, word_width=8, object_names=SPLIT.object_names, predicate_names=SPLIT.predicate_names
    )
    model = CMSEI(config, Vocabulary.build(SPLIT.captions))
    other = renumber(SPLIT, sorted(SPLIT.object_names, reverse=True), sorted(SPLIT.predicate_names, reverse=True))
    assert not np.array_equal(other.labels, SPLIT.labels)
    assert torch.equal(model.encode_images(other).rows, model.encode_images(SPLIT).rows)
