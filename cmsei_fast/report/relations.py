"""The relations behind a graph's edges, each listed once, though its edges run both ways and through every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .explanation import Edge, Explanation

LIT = 5  # relations that a word lights up


@dataclass(frozen=True)
class Relation:
    """Subject, name, object, with the edges that come of it.

    Args:
        kind: of the graph.
        subject: the region that ``name`` is said of.
        name: predicate, or place as one says it: ``"above and slightly left of"``.
        target: the other region.
        edges: the strongest first.
    """

    kind: str
    subject: int
    name: str
    target: int
    edges: tuple[Edge, ...]

    @property
    def attention(self) -> float:
        """The largest along its edges."""
        return self.edges[0].attention

    def gathered_by(self, region: int) -> tuple[Edge, ...]:
        """The edges along which that region gathers, layer by layer."""
        return tuple(sorted((edge for edge in self.edges if edge.region == region), key=lambda edge: edge.layer))


def strongest_relations(explanation: Explanation) -> list[Relation]:
    """Each relation between two regions once, by its largest attention; a region's edge to itself is none.

    Of a scene graph, the triplets. Of another graph, the pairs of regions: what each is to the other says one thing
    twice, so the stronger edge has the word.
    """
    found: dict[tuple[object, ...], list[Edge]] = {}
    for edge in sorted(explanation.edges, key=lambda edge: -edge.attention):
        if edge.region == edge.neighbour:
            continue
        subject, target = _ends(edge)
        key = (subject, target, edge.name) if edge.kind == "semantic" else frozenset((subject, target))
        found.setdefault((edge.kind, key), []).append(edge)
    relations = []
    for edges in found.values():
        subject, target = _ends(edges[0])
        relations.append(Relation(edges[0].kind, subject, _said(edges[0]), target, tuple(edges)))
    return relations


@dataclass(frozen=True)
class Lit:
    """A relation that a word lights up.

    Args:
        relation: the relation.
        share: of what the word looks at, how much came along the relation's edges, both ways and through every layer.
        usual: the mean share over the sentence's words.
    """

    relation: Relation
    share: float
    usual: float


def relation_shares(explanation: Explanation, relations: Sequence[Relation], step: int = -1) -> np.ndarray:
    """(L, relations): of all that each word looks at in a step, how much came along the edges of each relation."""
    place = {id(edge): k for k, edge in enumerate(explanation.edges)}
    looks = np.maximum(explanation.of_words(step).sum(1, keepdims=True), 1e-12)  # of β read the other way, not 1
    along = explanation.along_edges(step) / looks  # (L, E)
    return np.stack([along[:, [place[id(edge)] for edge in relation.edges]].sum(1) for relation in relations], 1)


def lit_relations(
    explanation: Explanation, relations: Sequence[Relation], word: int, step: int = -1, count: int = LIT
) -> list[Lit]:
    """The relations along which a word gets more than the sentence's words do on the mean, by how much more.

    A region in many relations passes much on to every word: what all words get says nothing of one. The only word of
    a sentence lights up those along which it gets most.

    Args:
        explanation: of the pair.
        relations: among which; those of :func:`strongest_relations`.
        word: its place.
        step: of the attention, from 0; -1 is the last.
        count: at most so many.
    """
    if not explanation.kept or not relations:
        return []
    shares = relation_shares(explanation, relations, step)
    usual = shares.mean(0)  # (relations,)
    more = shares[word] - (usual if len(shares) > 1 else 0)
    order = [k for k in np.argsort(-more, kind="stable")[:count].tolist() if more[k] > 0]
    return [Lit(relations[k], float(shares[word, k]), float(usual[k])) for k in order]


def said(explanation: Explanation, relation: Relation) -> str:
    """The relation as one reads it, each region with its number."""
    subject, target = (f"{explanation.regions[i]} {i}" for i in (relation.subject, relation.target))
    return f"{subject} {relation.name} {target}"


def _ends(edge: Edge) -> tuple[int, int]:
    """Subject and object; a direction in the image is where the neighbour lies, so the neighbour is its subject."""
    swapped = edge.reverse or (edge.kind == "spatial" and ", " in edge.name)
    return (edge.neighbour, edge.region) if swapped else (edge.region, edge.neighbour)


def _said(edge: Edge) -> str:
    if edge.kind == "implicit":
        return "and"
    if edge.kind == "semantic" or ", slightly " not in edge.name:
        return edge.name
    return " and slightly ".join(
        f"{side} of" if side in ("left", "right") else side for side in edge.name.split(", slightly ")
    )
