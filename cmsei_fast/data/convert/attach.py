"""Moves one detector's labels and relations onto another's regions, where their boxes agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..split import Split, offsets_from_counts
from .matching import image_key

SHORTER, LONGER = 600, 1000  # pixels: how Scene-Graph-Benchmark scales images for its detector


def seen_size(width: float, height: float) -> tuple[float, float]:
    """Width and height of an image as Scene-Graph-Benchmark's detector sees it: 600 the shorter side, at most 1000."""
    size = float(SHORTER)
    if max(width, height) / min(width, height) * size > LONGER:
        size = float(round(LONGER * min(width, height) / max(width, height)))
    if width < height:
        return size, float(int(size * height / width))
    return float(int(size * width / height)), size


def attach(base: Split, graphs: Split, *, overlap: float = 0.5, scaled: bool = True) -> Split:
    """The base with labels and relations of the graphs; those it had are replaced, all else stays.

    Images are matched by name. A box of the graph belongs to the region with the largest intersection over union, if
    that is at least ``overlap``; a region takes the label of the box that agrees best with it, or is unknown (-1). A
    relation is kept if its two boxes belong to two regions; of equal ones the surest.

    Args:
        base: with boxes and image sizes.
        graphs: with boxes, labels and relations, of all images of the base.
        overlap: in (0, 1].
        scaled: the boxes of the graphs are pixels of the image as :func:`seen_size` scales it, not of the image itself.

    Raises:
        ValueError: a part is missing, ``overlap`` is out of range, or an image has no graph.
    """
    if not 0 < overlap <= 1:
        raise ValueError(f"overlap: expected a number > 0 and <= 1, got {overlap!r}")
    for name, split, parts in (
        ("base", base, ("boxes", "sizes")),
        ("graphs", graphs, ("boxes", "labels", "relations")),
    ):
        for part in parts:
            if getattr(split, part) is None:
                raise ValueError(f"{name}: expected a split with {part}, got one without")
    place = {image_key(name): i for i, name in enumerate(graphs.ids)}
    keys = [image_key(name) for name in base.ids]
    missing = [name for name, key in zip(base.ids, keys, strict=True) if key not in place]
    if missing:
        none = f"got none for {len(missing)} of {len(keys)}, {missing[0]!r} the first"
        # SCAN's numbers of Flickr30K are not the names of files.
        numbers = len(missing) == len(keys) and all(key.isdigit() for key in keys)
        hint = "; numbers get the names of their files by convert scan --id-mapping" if numbers else ""
        raise ValueError(f"graphs: expected one for each image, {none}{hint}")
    parts_by_image = [_on_regions(base, i, graphs, place[key], overlap, scaled) for i, key in enumerate(keys)]
    labels, label_scores, relations, scores = (np.concatenate([parts[k] for parts in parts_by_image]) for k in range(4))
    return replace(
        base,
        labels=labels,
        object_names=graphs.object_names,
        label_scores=None if graphs.label_scores is None else label_scores,
        relations=relations,
        relation_offsets=offsets_from_counts([len(parts[2]) for parts in parts_by_image]),
        relation_scores=None if graphs.relation_scores is None else scores,
        predicate_names=graphs.predicate_names,
    )


def _on_regions(
    base: Split, image: int, graphs: Split, graph: int, overlap: float, scaled: bool
) -> tuple[np.ndarray, ...]:
    """Labels (R,) and their scores (R,), relations (E, 3) and their scores (E,) of an image of the base."""
    assert base.boxes is not None
    assert base.sizes is not None
    assert graphs.boxes is not None
    assert graphs.labels is not None
    assert graphs.relations is not None
    assert graphs.relation_offsets is not None
    regions = base.boxes[base.offsets[image] : base.offsets[image + 1]]
    rows = slice(graphs.offsets[graph], graphs.offsets[graph + 1])
    boxes = graphs.boxes[rows]
    if scaled:
        width, height = map(float, base.sizes[image])
        boxes = boxes * np.tile(np.array([width, height]) / seen_size(width, height), 2)
    agreement = _iou(boxes, regions)  # (boxes, regions)
    owner = np.where(agreement.max(1) >= overlap, agreement.argmax(1), -1)

    labels = np.full(len(regions), -1, dtype=np.int32)
    scores = np.zeros(len(regions), dtype=np.float32)
    box_labels = graphs.labels[rows]
    box_scores = np.ones(len(boxes), np.float32) if graphs.label_scores is None else graphs.label_scores[rows]
    for box in np.argsort(agreement.max(1), kind="stable"):  # the best comes last and overwrites the others
        if owner[box] >= 0:
            labels[owner[box]], scores[owner[box]] = box_labels[box], box_scores[box]

    edges = slice(graphs.relation_offsets[graph], graphs.relation_offsets[graph + 1])
    triplets = graphs.relations[edges]
    weights = np.ones(len(triplets), np.float32) if graphs.relation_scores is None else graphs.relation_scores[edges]
    best_scores: dict[tuple[int, int, int], float] = {}
    for (subject, predicate, other), weight in zip(triplets.tolist(), weights.tolist(), strict=True):
        key = (int(owner[subject]), predicate, int(owner[other]))
        if min(key[0], key[2]) >= 0 and key[0] != key[2]:
            best_scores[key] = max(best_scores.get(key, 0.0), weight)
    relations = np.array(list(best_scores), dtype=np.int32).reshape(-1, 3)
    return labels, scores, relations, np.array(list(best_scores.values()), dtype=np.float32)


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, m) intersection over union of boxes (n, 4) and (m, 4); 0 where both are empty."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(2)
    areas = (a[:, 2:] - a[:, :2]).prod(1)[:, None] + (b[:, 2:] - b[:, :2]).prod(1)[None]
    return common / np.maximum(areas - common, 1e-9)
