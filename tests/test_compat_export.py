"""What other packages of the field read: FICO-ITR's arguments, ECCV Caption's rankings, maps of captions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from field_written_out import problem

from cmsei_fast import PairScorer, recall_metrics, score_matrix
from cmsei_fast.compat import export
from cmsei_fast.retrieval.groups import group_accuracy


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        (torch.zeros(6, dtype=torch.bfloat16), TypeError, "expected integers, got bfloat16"),
        (torch.zeros(6, dtype=torch.int64, device="meta"), ValueError, "expected a tensor that holds data"),
        ([0, [1, 2], 0, 0, 0, 0], ValueError, "expected a sequence of integers, got a ragged list"),
        (3, TypeError, "expected a list, array or tensor of integers, got int"),
    ],
)
def test_maps_that_are_no_integers(given: Any, error: type[Exception], told: str) -> None:
    scores = np.random.default_rng(0).standard_normal((6, 6))
    calls = {
        "caption_to_image": lambda: recall_metrics(scores, caption_to_image=given),
        "group": lambda: group_accuracy(scores, range(6), given),
        "image_ids": lambda: export.eccv_caption_items(scores, given, range(6)),
    }
    for name, call in calls.items():
        with pytest.raises(error, match=f"^{name}: {told}"):
            call()


@pytest.mark.parametrize("mapped", [False, True])
def test_fico_itr_gets_what_it_reads(mapped: bool) -> None:
    fico_itr = pytest.importorskip("fico_itr")
    v, _ = problem(12, dtype=torch.float32)
    words = torch.randn(60, 7, 8, generator=torch.Generator().manual_seed(1))
    scores = score_matrix(v, words, scorer=PairScorer.scan_t2i())
    owner = np.random.default_rng(0).permutation(np.repeat(np.arange(12), 5)) if mapped else None
    given = export.fico_itr_arguments(scores, caption_to_image=owner)
    i2t, t2i = fico_itr.instance_retrieval(**given)
    ours = recall_metrics(scores, caption_to_image=owner)
    for theirs, mine in ((i2t, ours.i2t), (t2i, ours.t2i)):
        assert [theirs["R@1"], theirs["R@5"], theirs["R@10"]] == pytest.approx([mine.r1, mine.r5, mine.r10])
    assert 0 < t2i["R@5"] < 100


def test_eccv_caption_items_are_rankings() -> None:
    scores = np.array([[0.1, 0.9, 0.9], [0.5, 0.2, 0.3]], dtype=np.float32)
    i2t, t2i = export.eccv_caption_items(scores, [70, 80], np.array([1, 2, 3]))
    assert i2t == {70: [2, 3, 1], 80: [1, 3, 2]}
    assert t2i == {1: [80, 70], 2: [70, 80], 3: [70, 80]}
    assert export.eccv_caption_items(torch.from_numpy(scores), [70, 80], [1, 2, 3], k=1)[0] == {70: [2], 80: [1]}
    for arguments, error in (
        ((scores, [70, 70], [1, 2, 3]), "image_ids: expected 2 different numbers, got 1"),
        ((scores, [70, 80], [1, 2]), "caption_ids: expected 3 different numbers"),
        ((scores, [70, 80], [1, 2, 3], 0), "k: expected None or an integer >= 1, got 0"),
        ((np.full((2, 3), np.nan), [70, 80], [1, 2, 3]), "no NaN"),
    ):
        with pytest.raises(ValueError, match=error):
            export.eccv_caption_items(*arguments)


def test_eccv_caption_gets_what_it_reads() -> None:
    """A matrix whose best captions are MS-COCO's own has 100 % there; random captions of other images have not."""
    eccv_caption = pytest.importorskip("eccv_caption")
    metrics = eccv_caption.Metrics()
    caption_ids = metrics.coco_ids[:250]
    owner = [metrics.coco_gts["t2i"][int(j)][0] for j in caption_ids]
    image_ids = list(dict.fromkeys(owner))
    match = np.array([[float(i == o) for o in owner] for i in image_ids])
    noise = np.random.default_rng(0).random(match.shape)
    for scores, perfect in ((match + 0.5 * noise, True), (noise, False)):
        i2t, t2i = export.eccv_caption_items(scores, image_ids, caption_ids)
        metrics.coco_gts = {
            "i2t": {i: metrics.coco_gts["i2t"][i] for i in image_ids},
            "t2i": {int(j): metrics.coco_gts["t2i"][int(j)] for j in caption_ids},
        }
        found = metrics.coco_5k_recalls({"i2t": i2t, "t2i": t2i}, "all", K=1)
        assert (found == {"i2t": 1.0, "t2i": 1.0}) is perfect
        assert perfect or found["t2i"] < 0.2
