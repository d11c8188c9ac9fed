"""The relations behind a graph's edges, each listed once, though its edges run both ways and through every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .explanation import Edge, Explanation

MAX_HIGHLIGHTED = 5  # relations that a word highlights


@dataclass(frozen=True)
class Relation:
    """Subject, name and object of a relation, with its edges.

    Args:
        kind: kind of the graph.
        subject: the region that ``name`` is said of.
        name: predicate, or position in words: ``"above and slightly left of"``.
        target: the other region, the object.
        edges: the relation's edges, the strongest first.
    """

    kind: str
    subject: int
    name: str
    target: int
    edges: tuple[Edge, ...]

    @property
    def attention(self) -> float:
        """The largest attention along the relation's edges."""
        return self.edges[0].attention

    def gathered_by(self, region: int) -> tuple[Edge, ...]:
        """The edges along which that region gathers from the other, layer by layer."""
        return tuple(sorted((edge for edge in self.edges if edge.region == region), key=lambda edge: edge.layer))


def strongest_relations(explanation: Explanation) -> list[Relation]:
    """Each relation between two regions once, the one with the largest attention first; edges to oneself are left out.

    In a scene graph, relations are the triplets. In other graphs, they are the pairs of regions: the edges in both
    directions say the same thing, so the stronger one gives the name.
    """
    edges_by_relation: dict[tuple[object, ...], list[Edge]] = {}
    for edge in sorted(explanation.edges, key=lambda edge: -edge.attention):
        if edge.region == edge.neighbour:
            continue
        subject, target = _subject_and_object(edge)
        key = (subject, target, edge.name) if edge.kind == "semantic" else frozenset((subject, target))
        edges_by_relation.setdefault((edge.kind, key), []).append(edge)
    relations = []
    for edges in edges_by_relation.values():
        subject, target = _subject_and_object(edges[0])
        relations.append(Relation(edges[0].kind, subject, _relation_name(edges[0]), target, tuple(edges)))
    return relations


@dataclass(frozen=True)
class HighlightedRelation:
    """A relation that a word highlights.

    Args:
        relation: the relation.
        share: of what the word attends to, how much came along the relation's edges, both ways and through every layer.
        mean_share: the mean share over the sentence's words.
    """

    relation: Relation
    share: float
    mean_share: float


def relation_shares(explanation: Explanation, relations: Sequence[Relation], step: int = -1) -> np.ndarray:
    """(L, relations): of all that each word attends to in a step, how much came along the edges of each relation."""
    edge_index = {id(edge): k for k, edge in enumerate(explanation.edges)}
    totals = np.maximum(explanation.of_words(step).sum(1, keepdims=True), 1e-12)  # not 1 where β is transposed
    along = explanation.along_edges(step) / totals  # (L, E)
    return np.stack([along[:, [edge_index[id(edge)] for edge in relation.edges]].sum(1) for relation in relations], 1)


def highlighted_relations(
    explanation: Explanation, relations: Sequence[Relation], word: int, step: int = -1, count: int = MAX_HIGHLIGHTED
) -> list[HighlightedRelation]:
    """The relations along which a word gets more than the sentence's words do on average, the largest excess first.

    A region with many relations passes much on to every word, so what all words get says nothing about one of them.
    The only word of a sentence highlights the relations along which it gets most.

    Args:
        explanation: of the pair.
        relations: the relations to choose from, as :func:`strongest_relations` gives them.
        word: index of the word.
        step: of the attention, from 0; -1 is the last.
        count: at most so many relations are given.
    """
    if not explanation.kept or not relations:
        return []
    shares = relation_shares(explanation, relations, step)
    mean_shares = shares.mean(0)  # (relations,)
    excess = shares[word] - (mean_shares if len(shares) > 1 else 0)
    order = [k for k in np.argsort(-excess, kind="stable")[:count].tolist() if excess[k] > 0]
    return [HighlightedRelation(relations[k], float(shares[word, k]), float(mean_shares[k])) for k in order]


def relation_text(explanation: Explanation, relation: Relation) -> str:
    """The relation in words: subject, name and object, each region with its number."""
    subject, target = (f"{explanation.regions[i]} {i}" for i in (relation.subject, relation.target))
    return f"{subject} {relation.name} {target}"


def _subject_and_object(edge: Edge) -> tuple[int, int]:
    """Subject and object; a direction in the image is where the neighbour lies, so the neighbour is its subject."""
    swapped = edge.reverse or (edge.kind == "spatial" and ", " in edge.name)
    return (edge.neighbour, edge.region) if swapped else (edge.region, edge.neighbour)


def _relation_name(edge: Edge) -> str:
    if edge.kind == "implicit":
        return "and"
    if edge.kind == "semantic" or ", slightly " not in edge.name:
        return edge.name
    return " and slightly ".join(
        f"{side} of" if side in ("left", "right") else side for side in edge.name.split(", slightly ")
    )
