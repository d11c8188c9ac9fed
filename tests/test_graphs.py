"""Labels of the graphs, each against plain loops over the definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cmsei_fast.graphs import implicit_labels, n_semantic_labels, semantic_labels, spatial_labels


def spatial_by_loops(boxes: Tensor, size: Tensor) -> list[list[int]]:
    """One image: the definition, pair by pair."""
    rows = boxes.tolist()
    diagonal = sum(x * x for x in size.tolist())  # squared, so that whole pixels compare exactly

    def label(i: int, j: int) -> int:
        a, b = rows[i], rows[j]
        if i == j:
            return 12
        if a[0] >= b[0] and a[1] >= b[1] and a[2] <= b[2] and a[3] <= b[3]:
            return 1
        if b[0] >= a[0] and b[1] >= a[1] and b[2] <= a[2] and b[3] <= a[3]:
            return 2
        shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
        union = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)) - shared
        if union > 0 and shared / union >= 0.5:
            return 3
        dx, dy = (b[0] + b[2] - a[0] - a[2]) / 2, (b[1] + b[3] - a[1] - a[3]) / 2
        if 4 * (dx * dx + dy * dy) >= diagonal:
            return 0
        return 4 + int(math.degrees(math.atan2(dy, dx)) % 360 // 45)

    return [[label(i, j) for j in range(len(rows))] for i in range(len(rows))]


def test_spatial_labels_are_those_of_plain_loops():
    generator = torch.Generator().manual_seed(0)
    seen: set[int] = set()
    for _ in range(20):
        boxes = torch.randint(0, 40, (3, 12, 4), generator=generator).float()  # integers: equal sides and corners occur
        boxes = torch.cat(
            [torch.minimum(boxes[..., :2], boxes[..., 2:]), torch.maximum(boxes[..., :2], boxes[..., 2:])], -1
        )
        boxes[:, 1] = boxes[:, 0]  # equal boxes
        boxes[:, 2, 2:] = boxes[:, 2, :2]  # no area
        boxes[:, 4] = boxes[:, 3] + torch.tensor([0.0, 0.0, 1.0, 1.0])  # covers, most of it shared
        boxes[:, 5] = boxes[:, 3] + torch.tensor([1.0, 0.0, 1.0, 0.0])
        sizes = torch.randint(30, 60, (3, 2), generator=generator).float()
        labels = spatial_labels(boxes, sizes, torch.ones(3, 12, dtype=torch.bool))
        expected = [spatial_by_loops(b, s) for b, s in zip(boxes, sizes, strict=True)]
        assert labels.tolist() == expected
        seen |= set(labels.flatten().tolist())
    assert seen == set(range(13)), "the boxes must bring about every label"


@pytest.mark.parametrize("eighth", range(8))
def test_directions_begin_at_multiples_of_45_degrees(eighth):
    dx, dy = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)][eighth]
    boxes = torch.tensor([[[50, 50, 54, 54], [50 + 20 * dx, 50 + 20 * dy, 54 + 20 * dx, 54 + 20 * dy]]])
    labels = spatial_labels(boxes, torch.tensor([[200, 200]]), torch.ones(1, 2, dtype=torch.bool))
    assert labels.tolist() == [[[12, 4 + eighth], [4 + (eighth + 4) % 8, 12]]]


@pytest.mark.parametrize(("distance", "label"), [(49, 4), (50, 0), (51, 0)], ids=["nearer", "half", "farther"])
def test_centres_must_be_nearer_than_half_the_diagonal(distance, label):
    boxes = torch.tensor([[[0, 0, 2, 2], [distance, 0, distance + 2, 2]]])
    assert spatial_labels(boxes, torch.tensor([[60, 80]]), torch.ones(1, 2, dtype=torch.bool))[0, 0, 1] == label


def test_padding_has_no_edge_whatever_its_boxes():
    boxes = torch.full((1, 3, 4), math.nan)
    boxes[0, 0] = torch.tensor([1.0, 2, 3, 4])
    mask = torch.tensor([[True, False, False]])
    for labels, own in ((spatial_labels(boxes, torch.ones(1, 2), mask), 12), (implicit_labels(mask), 1)):
        expected = torch.zeros(1, 3, 3, dtype=torch.uint8)
        expected[0, 0, 0] = own
        assert torch.equal(labels, expected)


def semantic_by_loops(triplets, owners, scores, mask, count, threshold):
    b, r = mask.shape
    labels, confidence = torch.zeros(b, r, r, dtype=torch.int64), torch.ones(b, r, r)
    for image in range(b):
        for i in range(r):
            for j in range(r):
                if not (mask[image, i] and mask[image, j]):
                    continue
                if i == j:
                    labels[image, i, j] = 1 + 2 * count
                    continue
                for turned, (s, o) in enumerate(((i, j), (j, i))):
                    own = [
                        (float(scores[e]), int(triplets[e, 1]))
                        for e in range(len(owners))
                        if owners[e] == image and (triplets[e, 0], triplets[e, 2]) == (s, o) and scores[e] >= threshold
                    ]
                    if own:
                        score, predicate = max(own, key=lambda x: x[0])  # the first of equals
                        labels[image, i, j] = 1 + turned * count + predicate
                        confidence[image, i, j] = score
                        break
    return labels, confidence


@pytest.mark.parametrize("threshold", [0.0, 0.5])
@pytest.mark.parametrize("edges", [0, 5, 200])
def test_semantic_labels_are_those_of_plain_loops(edges, threshold):
    generator = torch.Generator().manual_seed(edges)
    mask = torch.tensor([[True] * 4, [True] * 3 + [False]])
    triplets = torch.stack([torch.randint(0, n, (edges,), generator=generator) for n in (3, 5, 3)], 1)
    owners = torch.randint(0, 2, (edges,), generator=generator)
    scores = torch.randint(1, 5, (edges,), generator=generator) / 4  # ties
    labels, confidence = semantic_labels(triplets, owners, scores, mask, 5, threshold)
    expected = semantic_by_loops(triplets, owners, scores, mask, 5, threshold)
    assert labels.dtype == torch.int16
    assert torch.equal(labels.long(), expected[0])
    assert torch.equal(confidence, expected[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"triplets": [[0, 1, 2], [0, 1, 3]]}, r"triplets\[1\]: expected regions of its image, got \[0, 1, 3\]"),
        ({"triplets": [[-1, 1, 2], [0, 1, 1]]}, r"triplets\[0\]: expected regions of its image, got \[-1, 1, 2\]"),
        ({"owners": [0, 1]}, r"triplets\[1\]: expected regions of its image, got \[0, 1, 2\]"),  # image 1 has two
        ({"triplets": [[0, 1, 2], [0, 4, 1]]}, r"triplets\[1\]: expected a predicate from 0 to 3, got \[0, 4, 1\]"),
        ({"triplets": [[0, -2, 2], [0, 1, 1]]}, r"triplets\[0\]: expected a predicate from 0 to 3, got \[0, -2, 2\]"),
        ({"owners": [0, 2]}, r"owners\[1\]: expected an image from 0 to 1, got 2"),
        ({"owners": [-1, 0]}, r"owners\[0\]: expected an image from 0 to 1, got -1"),
        ({"owners": [0]}, r"owners: expected shape \(2,\), one per triplet, got \(1,\)"),
        ({"scores": [0.5]}, r"scores: expected shape \(2,\), one per triplet, got \(1,\)"),
        ({"triplets": [0, 1, 2]}, r"triplets: expected shape \(E, 3\), got \(3,\)"),
        ({"mask": [[1, 1, 1], [1, 1, 0]]}, "mask: expected a bool tensor"),
    ],
)
def test_triplets_of_what_is_not_there_are_refused(changes, message):
    given = {"triplets": [[0, 1, 2], [0, 1, 2]], "owners": [0, 0], "scores": [0.5, 0.4]}
    given |= {"mask": [[True] * 3, [True, True, False]]} | changes
    with pytest.raises(ValueError, match=f"^{message}"):
        semantic_labels(**{name: torch.tensor(x) for name, x in given.items()}, n_predicates=4)


def test_semantic_labels_without_scores_are_certain():
    mask = torch.ones(1, 2, dtype=torch.bool)
    labels, confidence = semantic_labels(torch.tensor([[0, 1, 1]]), torch.tensor([0]), None, mask, 3)
    assert labels.tolist() == [[[7, 2], [5, 7]]]
    assert torch.equal(confidence, torch.ones(1, 2, 2))


def test_many_predicates_do_not_overflow():
    count = 20_000
    mask = torch.ones(1, 2, dtype=torch.bool)
    labels, _ = semantic_labels(torch.tensor([[0, count - 1, 1]]), torch.tensor([0]), None, mask, count)
    assert labels.tolist() == [[[1 + 2 * count, count], [2 * count, 1 + 2 * count]]]
    assert n_semantic_labels(count) == 2 + 2 * count
