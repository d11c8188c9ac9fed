"""Computes explanations: the attention behind a score, recomputed by the reference engine's functions in float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..data.corners import instead_of_corners
from ..data.split import Split
from ..engines import reference
from ..engines.terms import Direction, read_terms
from ..graphs import SPATIAL_NAMES, n_semantic_labels
from ..model.cmsei import CMSEI
from ..model.graph_reasoning import ReasoningLayer
from ..packing import as_tensor
from ..scorer import PairScorer
from .explanation import AttentionStep, Edge, Explanation, Term
from .mixing import mixing


@torch.no_grad()
def explain(model: CMSEI, image: Split, caption: str) -> Explanation:
    """Which regions each word of a sentence attends to, and vice versa, and what makes up the score of the pair.

    Args:
        model: a trained model.
        image: one image as a split, ``split.subset([i])``; its own captions are ignored.
        caption: the sentence.

    Returns:
        The attention of every step, the cross-level weights, the graphs' edges and the attention along them, and the
        terms of the score.

    Raises:
        TypeError: for arguments of a wrong type.
        ValueError: for a split of more than one image or without what the model is built on, and if the model encodes
            the pair as features that are not finite.
    """
    if not isinstance(model, CMSEI):
        raise TypeError(f"model: expected a CMSEI (features alone: explain_features), got {type(model).__name__}")
    if not isinstance(image, Split):
        raise TypeError(f"image: expected a Split of one image, got {type(image).__name__}")
    if len(image) != 1:
        raise ValueError(f"image: expected a Split of one image, such as split.subset([0]), got one of {len(image)}")
    if not isinstance(caption, str):
        raise TypeError(f"caption: expected a string, got {type(caption).__name__}")
    calls: list[_LayerCall] = []
    with _record_layers(model, calls):
        regions = model.encode_images(image).rows
    words = model.encode_captions([caption]).rows
    for name, rows, description in (("image", regions, image.ids[0]), ("caption", words, f"“{caption}”")):
        if not rows.isfinite().all():
            expected = "what the model encodes as finite features"
            raise ValueError(f"{name}: expected {expected}, got NaN or an infinity of {description}")
    tokens = model.text.spell(caption)
    return explain_features(
        regions,
        words,
        scorer=model.scorer,
        image=image.ids[0],
        caption=caption,
        word_names=[text for text, _ in tokens],
        known=[known for _, known in tokens],
        region_names=_region_names(image),
        boxes=image.boxes,
        size=None if image.sizes is None else image.sizes[0],
        edges=[edge for call in calls for edge in call.edges(model.config.predicate_names)],
        kept=[call.kept for call in calls],
    )


@torch.no_grad()
def explain_features(
    image_features: Any,
    caption_features: Any,
    *,
    scorer: PairScorer | None = None,
    image: str = "",
    caption: str | None = None,
    word_names: Sequence[str] | None = None,
    known: Sequence[bool] | None = None,
    region_names: Sequence[str] | None = None,
    boxes: Any = None,
    size: Any = None,
    edges: Sequence[Edge] = (),
    kept: Sequence[Any] = (),
) -> Explanation:
    """Like :func:`explain`, from features alone: R regions and L words of one pair, without padding.

    Args:
        image_features: (R, D) numpy array or torch tensor, floating.
        caption_features: (L, D) of the same kind.
        scorer: what the score is; None is :meth:`PairScorer.cmsei`.
        image: name of the image; empty if it has none.
        caption: the sentence; None joins the words.
        word_names: L words; None is ``"word 0"`` and so on.
        known: (L,) whether each word is in the vocabulary; None means that all are.
        region_names: R names; None is ``"region"`` for all.
        boxes: (R, 4) xyxy pixels.
        size: width and height of the image in pixels; None is the boxes' largest corner.
        edges: of graphs over the regions.
        kept: for each layer of reasoning (R,), the share of each region's state that the layer leaves; together with
            the shares of the region's edges in that layer it sums to 1. Without it, regions are taken as unchanged.

    Raises:
        TypeError, ValueError: naming the argument, what it takes and what it was given.
    """
    rows = []
    for name, value in (("image_features", image_features), ("caption_features", caption_features)):
        checks.kind_of(name, value)
        checks.dtype_of(name, value)
        if len(value.shape) != 2 or 0 in value.shape:
            raise ValueError(f"{name}: expected shape (rows, D) with one row at least, got {tuple(value.shape)}")
        x = as_tensor(value).detach().to("cpu", torch.float64)
        if not x.isfinite().all():
            raise ValueError(f"{name}: expected finite features, got NaN or an infinity")
        rows.append(x)
    v, w = rows
    if v.shape[1] != w.shape[1]:
        raise ValueError(f"caption_features: expected a width of {v.shape[1]} (as image_features), got {w.shape[1]}")
    scorer = checks.check_scorer(scorer)
    words = _check_names("word_names", word_names, [f"word {i}" for i in range(len(w))])
    regions = _check_names("region_names", region_names, ["region"] * len(v))
    boxes, size = _check_boxes(boxes, size, len(v))
    kept = _check_kept(kept, edges, len(v))

    terms = read_terms(torch.tensor(scorer.scalars(), dtype=torch.float64, device="cpu"), scorer.config())
    levels = reference.cross_levels(v, w, terms.guide_temperature)
    return Explanation(
        image=image,
        caption=" ".join(words) if caption is None else caption,
        words=words,
        known=tuple(map(bool, _check_names("known", known, [True] * len(w)))),
        regions=regions,
        t2i=_steps(w, v, terms.t2i, levels.omega),
        i2t=_steps(v, w, terms.i2t, levels.p),
        region_weights=levels.p.numpy(),
        word_weights=levels.omega.numpy(),
        terms=tuple(
            Term(name, float(weight), float(value))
            for name, (weight, value) in reference.weighted_terms(v, w, terms).items()
        ),
        score=float(reference.score(v, w, terms)),
        edges=tuple(edges),
        kept=kept,
        boxes=boxes,
        size=size,
    )


def _steps(q: Tensor, c: Tensor, direction: Direction | None, guide: Tensor) -> tuple[AttentionStep, ...]:
    if direction is None:
        return ()
    return tuple(
        AttentionStep(
            step.attention.numpy(),
            step.relevance.numpy(),
            float(step.aggregated),
            None if step.gate is None else step.gate.numpy(),
        )
        for step in reference.attention_steps(q, c, direction, guide)
    )


def _check_names(name: str, values: Sequence[Any] | None, default: list[Any]) -> tuple[Any, ...]:
    out = default if values is None else list(values)
    if len(out) != len(default):
        raise ValueError(f"{name}: expected {len(default)} of them, got {len(out)}")
    return tuple(out)


def _check_kept(kept: Sequence[Any], edges: Sequence[Edge], n_region: int) -> tuple[np.ndarray, ...]:
    layers = tuple(np.asarray(shares, dtype=np.float64) for shares in kept)
    for layer, kept_shares in enumerate(layers):
        if kept_shares.shape != (n_region,):
            raise ValueError(f"kept: expected shape ({n_region},) for each layer, got {kept_shares.shape}")
        total = kept_shares.copy()
        for edge in edges:
            if edge.layer == layer:
                total[edge.region] += edge.share
        if not np.allclose(total, 1, atol=1e-6):
            worst = total[np.abs(total - 1).argmax()]
            raise ValueError(
                f"kept: expected shares that sum to 1 with those of a region's edges, got {worst:g} in layer {layer}"
            )
    return layers


def _check_boxes(boxes: Any, size: Any, n_region: int) -> tuple[np.ndarray | None, tuple[float, float] | None]:
    if boxes is None:
        return None, None
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.shape != (n_region, 4):
        raise ValueError(f"boxes: expected finite pixels of shape ({n_region}, 4), got shape {boxes.shape}")
    extent = np.maximum(boxes[:, 2:].max(0), 1) if size is None else np.asarray(size, dtype=np.float64)
    if size is not None and (extent.shape != (2,) or not (np.isfinite(extent) & (extent > 0)).all()):
        raise ValueError(f"size: expected width and height in pixels, got {size!r:.60}")
    valid = np.isfinite(boxes).all(1) & (boxes[:, :2] <= boxes[:, 2:]).all(1)
    if not valid.all():
        i = int(np.argmin(valid))
        got = f"{boxes[i].tolist()}{instead_of_corners(boxes, None if size is None else extent)}"
        raise ValueError(f"boxes[{i}]: expected finite pixels with x1 <= x2 and y1 <= y2, got {got}")
    return boxes, (float(extent[0]), float(extent[1]))


def _region_names(image: Split) -> list[str] | None:
    if image.labels is None:
        return None
    return ["unknown" if label < 0 else image.object_names[label] for label in image.labels]


class _LayerCall:
    """One call of a reasoning layer: its edges, and how much of their own states the regions keep."""

    def __init__(self, number: int, layer: ReasoningLayer, arguments: tuple[Any, ...]) -> None:
        nodes, graphs, predicates = arguments
        self.number = number
        self.labels = {kind: labels[0].cpu() for kind, (labels, _) in graphs.items()}
        self.confidence = {kind: None if values is None else values[0].cpu() for kind, (_, values) in graphs.items()}
        mixed = mixing(layer, nodes, graphs, predicates)
        self.kept, self.edge_shares, self.attention = mixed.kept.numpy(), mixed.edge_shares, mixed.attention

    def edges(self, predicates: Sequence[str]) -> Iterator[Edge]:
        """All edges, graph by graph and region by region."""
        for kind, labels in self.labels.items():
            confidence = self.confidence[kind]
            for i, j in labels.nonzero().tolist():
                name, reverse = _edge_name(kind, int(labels[i, j]), predicates)
                yield Edge(
                    kind,
                    self.number,
                    i,
                    j,
                    name,
                    reverse,
                    float(self.attention[kind][i, j]),
                    1.0 if confidence is None else float(confidence[i, j]),
                    float(self.edge_shares[kind][i, j]),
                )


def _edge_name(kind: str, label: int, predicates: Sequence[str]) -> tuple[str, bool]:
    """The name of a label, and whether it is a predicate whose subject is the neighbour."""
    if kind == "spatial":
        return SPATIAL_NAMES[label], False
    if kind == "implicit":
        return "any", False
    if label == n_semantic_labels(len(predicates)) - 1:
        return "self", False
    return predicates[(label - 1) % len(predicates)], label > len(predicates)


@contextmanager
def _record_layers(model: CMSEI, calls: list[_LayerCall]) -> Iterator[None]:
    """Appends every call of a reasoning layer inside the block to ``calls``."""
    handles = []
    for number, layer in enumerate(model.reasoning.layers):

        def record_call(module: Any, arguments: tuple[Any, ...], number: int = number) -> None:
            calls.append(_LayerCall(number, module, arguments))

        handles.append(layer.register_forward_pre_hook(record_call))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
