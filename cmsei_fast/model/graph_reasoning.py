"""Intra-modal reasoning: regions exchange information along the spatial, semantic and implicit graphs.

V' = LayerNorm(V + Σ over relation kinds of Proj(out)), one or more times.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import LayerNorm, Linear, Module, ModuleDict, ModuleList

from ..compiling import outside_graphs
from ..data.batches import ImageBatch, require_part
from ..data.vocabulary import Vocabulary
from ..graphs import (
    IMPLICIT_LABELS,
    SPATIAL_LABELS,
    implicit_labels,
    n_semantic_labels,
    semantic_labels,
    spatial_labels,
)
from ..nn import RelationAttention
from .config import ModelConfig
from .dropout import Dropout
from .words import WordEmbedding, name_tokens


class ReasoningLayer(Module):
    """One layer: attention along each graph, its sum added to the regions and normalised.

    Args:
        config: ``relations``, ``heads`` and ``predicate_names``.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        n_labels = {
            "implicit": IMPLICIT_LABELS,
            "spatial": SPATIAL_LABELS,
            "semantic": n_semantic_labels(len(config.predicate_names)),
        }
        self.heads, self.kinds = config.heads, config.relations
        self.attention = ModuleDict(
            {kind: RelationAttention(config.width, config.heads, n_labels[kind]) for kind in self.kinds}
        )
        for kind in self.kinds:
            out: RelationAttention = self.attention[kind]  # type: ignore[assignment]
            out.out.weight.data *= 0.1  # a region starts as itself
        self.norm = LayerNorm(config.width)
        self.dropout = Dropout(config.dropout)

    def forward(
        self, nodes: Tensor, graphs: dict[str, tuple[Tensor, Tensor | None]], predicates: Tensor | None
    ) -> Tensor:
        """Nodes (B, R, D) from nodes, the graphs' labels and confidences, and the predicates' vectors (P, D)."""
        total = nodes
        for kind in self.kinds:
            value = self.value(kind, predicates)
            total = total + self.dropout(self.attention[kind](nodes, *graphs[kind], value))
        out: Tensor = self.norm(total)
        return out

    def value(self, kind: str, predicates: Tensor | None) -> Tensor:
        """(n_labels, H, d): the vector that an edge of each label adds to the value of its neighbour.

        In a scene graph it is the layer's learned vector plus that of the predicate's words, alike in both directions.
        """
        attention: RelationAttention = self.attention[kind]  # type: ignore[assignment]
        learned: Tensor = attention.label_value
        if kind != "semantic" or predicates is None:
            return learned
        vectors = predicates.unflatten(-1, (self.heads, -1))  # (P, H, d)
        zeros = vectors.new_zeros(1, *vectors.shape[1:])
        return learned + torch.cat([zeros, vectors, vectors, zeros])


class GraphReasoning(Module):
    """Regions (ΣR, D) after they exchanged information along their graphs; unchanged where there is no graph.

    Args:
        config: ``relations``, ``layers``, ``heads`` and ``predicate_names``.
        vocabulary: of the embedding that gives predicates their vectors.
    """

    def __init__(self, config: ModelConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.relations, self.threshold = config.relations, config.confidence_threshold
        self.n_predicates = len(config.predicate_names)
        self.layers = ModuleList(ReasoningLayer(config) for _ in range(config.layers if self.relations else 0))
        semantic = "semantic" in self.relations
        self.predicates = Linear(config.word_width, config.width, bias=False) if semantic else None
        if self.predicates is not None:
            torch.nn.init.normal_(self.predicates.weight, std=0.02)
        self.name_tokens: Tensor
        self.register_buffer("name_tokens", name_tokens(config.predicate_names, vocabulary), persistent=False)

    def forward(self, regions: Tensor, batch: ImageBatch, words: WordEmbedding) -> Tensor:
        """Regions (ΣR, D) after reasoning over the graphs of their images; ``words`` gives predicates their vectors.

        Raises:
            ValueError: if the batch lacks the boxes or triplets that a graph is made of.
        """
        if not self.relations:
            return regions
        graphs, mask, uniform = self._structure(batch, regions.device)
        nodes = regions.view(*mask.shape, -1) if uniform else _padded(regions, mask)
        predicate_vectors = self.predicates(words.names(self.name_tokens)) if self.predicates is not None else None
        for layer in self.layers:
            nodes = layer(nodes, graphs, predicate_vectors)
        return nodes.flatten(0, 1) if uniform else _packed(nodes, mask)

    @outside_graphs
    def _structure(
        self, batch: ImageBatch, device: torch.device
    ) -> tuple[dict[str, tuple[Tensor, Tensor | None]], Tensor, bool]:
        """The graphs, which places (B, R) are regions, and whether all are."""
        mask = batch.mask(device)
        return self.graphs(batch, mask), mask, bool((batch.lengths == mask.shape[1]).all())

    def graphs(self, batch: ImageBatch, mask: Tensor) -> dict[str, tuple[Tensor, Tensor | None]]:
        """Labels (B, R, R) of each graph and the confidences of its edges, None where all are certain."""
        out: dict[str, tuple[Tensor, Tensor | None]] = {}
        for kind in self.relations:
            if kind == "implicit":
                out[kind] = implicit_labels(mask), None
            elif kind == "spatial":
                boxes = require_part("boxes", batch.boxes)
                if boxes.shape[0] != mask.numel():
                    boxes = _padded(boxes, mask)
                out[kind] = spatial_labels(boxes.view(*mask.shape, 4), require_part("sizes", batch.sizes), mask), None
            else:
                labels, confidence = semantic_labels(
                    require_part("relations", batch.triplets),
                    require_part("owners", batch.owners),
                    batch.scores,
                    mask,
                    self.n_predicates,
                    self.threshold,
                )
                out[kind] = labels, None if batch.scores is None else confidence
        return out


@outside_graphs
def _padded(rows: Tensor, mask: Tensor) -> Tensor:
    """(B, R, D) from rows (n, D) of the places that the mask (B, R) has, 0 elsewhere."""
    padded = rows.new_zeros(*mask.shape, rows.shape[-1])
    padded[mask] = rows
    return padded


@outside_graphs
def _packed(padded: Tensor, mask: Tensor) -> Tensor:
    """The rows of the places that the mask (B, R) has."""
    return padded[mask]
