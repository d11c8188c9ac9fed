"""Scene-Graph-Benchmark.pytorch's predictions: ``custom_prediction.json`` with ``custom_data_info.json``."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from tqdm import tqdm

from ..corners import instead_of_corners
from ..json_object import read_json, string_list
from ..split import Split, offsets_from_counts
from .captions import Captions
from .matching import match_images
from .members import members

_BACKGROUND = "__background__"


def scene_graph_split(
    prediction: str | os.PathLike[str],
    info: str | os.PathLike[str],
    captions: Captions | None = None,
    *,
    max_boxes: int | None = None,
    max_relations: int | None = 100,
    min_score: float = 0.0,
    progress: bool = False,
) -> Split:
    """The split of predicted scene graphs, without features.

    The prediction is read an image at a time. Labels count from 1 in it (0 is the background) and from 0 in the split.
    Boxes are left as they are, in pixels of the image as the detector saw it (``attach.seen_size``); that image's size
    is not in the files: the largest corner of its boxes stands for it. Relations of confidence 0 are left out.

    Args:
        prediction: keyed by the number of the image: ``bbox``, ``bbox_labels``, ``bbox_scores``, ``rel_pairs``,
            ``rel_labels``, ``rel_scores``.
        info: ``idx_to_files``, ``ind_to_classes``, ``ind_to_predicates``.
        captions: whose images make the split, in their order; without, all images and no captions.
        max_boxes: the first so many boxes of an image, and the relations among them; all, if None.
        max_relations: the first so many relations of an image (the prediction has the surest first); all, if None.
        min_score: of a relation.
        progress: show a bar while the prediction is read.

    Raises:
        OSError: a file cannot be opened.
        ValueError: naming the file, the image and the key, what was expected and what came.
    """
    record = read_json(info)
    files = string_list(info, record, "idx_to_files")
    objects, predicates = (_names(string_list(info, record, f"ind_to_{kind}")) for kind in ("classes", "predicates"))
    counts = len(objects), len(predicates)
    graphs: dict[int, tuple[np.ndarray, ...]] = {}
    size = os.path.getsize(prediction)
    with tqdm(total=size, unit="B", unit_scale=True, desc="scene graphs", disable=not progress) as bar:
        for key, graph in members(prediction, bar.update):
            where = f"{os.fspath(prediction)}: image {key!r}: "
            if not key.isdecimal() or int(key) >= len(files):
                raise ValueError(f"{where}expected the number of one of {len(files)} images (idx_to_files)")
            if int(key) in graphs:
                raise ValueError(f"{where}expected each image once, got it twice")
            graphs[int(key)] = _graph(where, graph, counts, max_boxes, max_relations, min_score)
    if not graphs:
        raise ValueError(f"{os.fspath(prediction)}: expected at least one image, got none")
    present = sorted(graphs)
    chosen = match_images([os.path.basename(files[i]) for i in present], prediction, captions)
    kept = [graphs[present[i]] for i in chosen.order]
    boxes, labels, label_scores, relations, relation_scores = (
        np.concatenate([graph[part] for graph in kept]) for part in range(5)
    )
    return Split(
        ids=chosen.ids,
        offsets=offsets_from_counts([len(graph[0]) for graph in kept]),
        captions=chosen.captions,
        caption_to_image=chosen.caption_to_image,
        boxes=boxes,
        sizes=np.array([np.maximum(graph[0][:, 2:].max(0), 1) for graph in kept], dtype=np.float32),
        labels=labels,
        object_names=objects,
        label_scores=label_scores,
        relations=relations,
        relation_offsets=offsets_from_counts([len(graph[3]) for graph in kept]),
        relation_scores=relation_scores,
        predicate_names=predicates,
    )


def _names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Drops the background's name, so that label 1 is the first name."""
    return names[1:] if names[0] == _BACKGROUND else names


def _graph(
    where: str,
    graph: dict[str, Any],
    counts: tuple[int, int],
    max_boxes: int | None,
    max_relations: int | None,
    min_score: float,
) -> tuple[np.ndarray, ...]:
    """Boxes (R, 4), labels (R,), their scores (R,), relations (E, 3) and their scores (E,) of an image."""
    try:
        boxes, labels, label_scores, pairs, predicates, scores = _check_graph(graph, *counts)
    except ValueError as error:
        raise ValueError(f"{where}{error}") from None
    kept_boxes = len(boxes) if max_boxes is None else max_boxes
    good = (scores > 0) & (scores >= min_score) & (pairs < kept_boxes).all(1)
    rows = np.nonzero(good)[0][:max_relations]
    relations = np.stack([pairs[rows, 0], predicates[rows] - 1, pairs[rows, 1]], axis=1)
    return (
        boxes[:kept_boxes].astype(np.float32),
        (labels[:kept_boxes] - 1).astype(np.int32),
        label_scores[:kept_boxes].astype(np.float32),
        relations.astype(np.int32),
        np.clip(scores[rows], np.finfo(np.float32).tiny, 1).astype(np.float32),
    )


def _check_graph(graph: dict[str, Any], n_object: int, n_predicate: int) -> tuple[np.ndarray, ...]:
    """Checks the six lists and returns them as arrays."""
    boxes = _numbers(graph, "bbox", None, 4)
    if not len(boxes):
        raise ValueError("bbox: expected at least one box, got none")
    good = np.isfinite(boxes).all(1) & (boxes[:, :2] <= boxes[:, 2:]).all(1)
    if not good.all():
        i = int(np.argmin(good))
        got = f"{boxes[i].tolist()}{instead_of_corners(boxes)}"
        raise ValueError(f"bbox[{i}]: expected finite pixels with x1 <= x2 and y1 <= y2, got {got}")
    labels = _numbers(graph, "bbox_labels", len(boxes), 0, (1, n_object))
    label_scores = _numbers(graph, "bbox_scores", len(boxes), 0)
    pairs = _numbers(graph, "rel_pairs", None, 2, (0, len(boxes) - 1))
    predicates = _numbers(graph, "rel_labels", len(pairs), 0, (1, n_predicate))
    scores = _numbers(graph, "rel_scores", len(pairs), 0)
    if not np.isfinite(label_scores).all() or not ((scores >= 0) & (scores <= 1.001)).all():
        raise ValueError("bbox_scores, rel_scores: expected finite confidences, those of relations from 0 to 1")
    return boxes, labels, label_scores, pairs, predicates, scores


def _numbers(
    graph: dict[str, Any], key: str, count: int | None, width: int, limits: tuple[int, int] | None = None
) -> np.ndarray:
    """(count,) or, with a width, (count, width) float64; whole numbers within the limits, if there are any."""
    if key not in graph:
        raise ValueError(f"missing key {key}")
    try:
        values = np.array(graph[key], dtype=np.float64)
    except (TypeError, ValueError, OverflowError):  # OverflowError: an integer of hundreds of digits
        raise ValueError(f"{key}: expected a list of numbers, got {graph[key]!r:.60}") from None
    if width and values.size == 0:
        values = values.reshape(0, width)
    shape = (len(values) if count is None and values.ndim else count, *([width] if width else []))
    if values.shape != shape:
        raise ValueError(f"{key}: expected shape {shape}, got {values.shape}")
    if limits is not None:
        good = (values == np.floor(values)) & (values >= limits[0]) & (values <= limits[1])
        if not good.all():
            wrong = values[~good][0]
            raise ValueError(f"{key}: expected whole numbers from {limits[0]} to {limits[1]}, got {wrong:g}")
    return values
