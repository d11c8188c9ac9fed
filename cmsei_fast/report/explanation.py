"""What made the score of one image and one sentence, in numbers."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

# The five terms of a score, in the order of docs/scores.md, and what the reports call them.
TERM_TITLES = {
    "t2i": "t2i: words attend to regions",
    "i2t": "i2t: regions attend to words",
    "object_sentence": "object–sentence",
    "word_image": "word–image",
    "alignment": "alignment",
}


@dataclass(frozen=True, eq=False)
class AttentionStep:
    """One attention step of one direction: n queries attend to a context of m.

    Args:
        attention: (n, m) float64, each row a softmax over the context: α if words attend, β if regions do.
        relevance: (n,) float64, each query's cosine with what it attends to, or what the scorer uses instead.
        score: the aggregate of the relevances.
        gate: (n,) float64 in [0, 1], how much of what was attended to the refinement takes in; None after the last
            step.
    """

    attention: np.ndarray
    relevance: np.ndarray
    score: float
    gate: np.ndarray | None


@dataclass(frozen=True)
class Term:
    """One term of the score.

    Args:
        name: a key of ``TERM_TITLES``.
        weight: its weight, > 0.
        value: its value; for a direction the mean over its steps.
    """

    name: str
    weight: float
    value: float

    @property
    def contribution(self) -> float:
        """Weight × value: the contributions of all terms sum to the score."""
        return self.weight * self.value


@dataclass(frozen=True)
class Edge:
    """One edge of a graph over the regions, with the attention that runs along it.

    Args:
        kind: ``"spatial"``, ``"semantic"`` or ``"implicit"``.
        layer: of the reasoning, from 0.
        region: the region that gathers.
        neighbour: the region that it gathers from; the region itself for an edge named ``"self"``.
        name: the predicate (what region is to neighbour, or the other way round where ``reverse``), or the spatial
            class: ``"inside"`` and ``"covers"`` say what region is to neighbour, a direction where the neighbour lies.
        reverse: whether the predicate's subject is the neighbour.
        attention: mean over the heads of its probability; a region's edges of one kind and layer sum to 1.
        confidence: of the scene graph's relation, in (0, 1].
        share: of region's state after the layer, what came along this edge; a region's edges of all kinds sum to 1
            with what it ``kept`` (:mod:`cmsei_fast.report.mixing`).
    """

    kind: str
    layer: int
    region: int
    neighbour: int
    name: str
    reverse: bool
    attention: float
    confidence: float
    share: float = 0.0


@dataclass(frozen=True, eq=False)
class Explanation:
    """One image–sentence pair: R regions, L words.

    Args:
        image: name of the image, empty if it has none.
        caption: the sentence.
        words: L words as they stand in the caption (tokens, for a transformer).
        known: (L,) whether the text encoder's vocabulary has each.
        regions: R names of the regions' objects.
        t2i: the steps in which words attend to regions (n = L, m = R); empty where the direction has no weight.
        i2t: the steps in which regions attend to words (n = R, m = L); empty where the direction has no weight.
        region_weights: p (R,) float64, object–sentence attention.
        word_weights: ω (L,) float64, word–image attention.
        terms: those that have a weight.
        score: of the pair.
        edges: of all graphs and layers; none without a model or without graphs.
        kept: (R,) float64 of each layer, the share of a region's state that is its own from before the layer.
        boxes: (R, 4) float64 xyxy pixels, None where regions have none.
        size: width and height in pixels, None without boxes.
    """

    image: str
    caption: str
    words: tuple[str, ...]
    known: tuple[bool, ...]
    regions: tuple[str, ...]
    t2i: tuple[AttentionStep, ...]
    i2t: tuple[AttentionStep, ...]
    region_weights: np.ndarray
    word_weights: np.ndarray
    terms: tuple[Term, ...]
    score: float
    edges: tuple[Edge, ...] = ()
    kept: tuple[np.ndarray, ...] = ()
    boxes: np.ndarray | None = None
    size: tuple[float, float] | None = None

    @property
    def title(self) -> str:
        """The image's name, if it has one, and the caption."""
        return f"{self.image}: {self.caption}" if self.image else self.caption

    @property
    def n_steps(self) -> int:
        """Steps of the direction that has more; 0 where no direction has a weight."""
        return max(len(self.t2i), len(self.i2t))

    def of_words(self, step: int = -1, *, through_graph: bool = False) -> np.ndarray:
        """(L, R): how much each word attends to each region in a step, by default the last.

        This is α; without t2i, it is β transposed (whose rows need not sum to 1); without any direction, it is p for
        every word. If a direction has fewer steps, its last one is used.

        Args:
            step: from 0; -1 is the last.
            through_graph: words attend to states that have taken in other regions; True distributes each state over
                the regions that it came from, by :meth:`rollout`. A word's total stays the same, 1 for α.
        """
        if self.t2i:
            attention = _step_at(self.t2i, step).attention
        elif self.i2t:
            attention = _step_at(self.i2t, step).attention.T
        else:
            attention = np.tile(self.region_weights, (len(self.words), 1))
        return attention @ self.rollout() if through_graph else attention

    def of_regions(self, step: int = -1, *, through_graph: bool = False) -> np.ndarray:
        """(R, L): how much each region attends to each word in a step, by default the last.

        This is β; without i2t, it is α transposed; without any direction, it is ω for every region. Through the graph,
        it is the mean over the states, each weighted by how much of the region is in it.
        """
        if self.i2t:
            attention = _step_at(self.i2t, step).attention
        elif self.t2i:
            attention = _step_at(self.t2i, step).attention.T
        else:
            attention = np.tile(self.word_weights, (len(self.regions), 1))
        if not through_graph:
            return attention
        shares_in_states = self.rollout().T  # (R, R): how much of each region (row) is in each final state
        return shares_in_states @ attention / np.maximum(shares_in_states.sum(1, keepdims=True), 1e-12)

    def rollout(self, first: int = 0) -> np.ndarray:
        """(R, R): how much of each region's final state (row) came from each region as it was before a layer.

        Attention rollout (Abnar & Zuidema 2020, arXiv 2005.00928): the product of the layers' mixing matrices, each of
        what a region kept and what came along its edges. Rows sum to 1. It follows how much came, not what: a word may
        attend to a state for other reasons than what the state took in. Without graphs, it is the identity.

        Args:
            first: layer, from 0.
        """
        out = np.eye(len(self.regions))
        for layer, kept_shares in enumerate(self.kept):
            if layer >= first:
                mixing = np.diag(kept_shares)
                for edge in self.edges:
                    if edge.layer == layer:
                        mixing[edge.region, edge.neighbour] += edge.share
                out = mixing @ out
        return out

    def along_edges(self, step: int = -1) -> np.ndarray:
        """(L, E): how much of what a word attends to in a step came along each of ``edges``.

        For α, a word's shares over one layer's edges sum to 1 with what the regions kept of themselves in that layer.
        """
        attention = self.of_words(step)  # (L, R)
        out = np.zeros((len(self.words), len(self.edges)))
        for layer in range(len(self.kept)):
            reached = attention @ self.rollout(layer + 1)  # (L, R): attention to the states after this layer
            for k, edge in enumerate(self.edges):
                if edge.layer == layer:
                    out[:, k] = reached[:, edge.region] * edge.share
        return out

    def find_word(self, word: str | int) -> int:
        """Index of a word in the caption, given as the word itself (in any case) or as its index.

        Raises:
            ValueError: the caption has no such word.
        """
        if isinstance(word, int):
            if not 0 <= word < len(self.words):
                raise ValueError(f"word: expected an index from 0 to {len(self.words) - 1}, got {word}")
            return word
        indices = [i for i, name in enumerate(self.words) if name.lower() == word.lower()]
        if not indices:
            raise ValueError(f"word: expected one of the caption's words ({', '.join(self.words)}), got {word!r}")
        return indices[0]

    def find_step(self, step: int) -> int:
        """Index of an attention step, from 0; -1 is the last.

        Raises:
            ValueError: the score has no such step.
        """
        last = max(self.n_steps, 1) - 1
        if isinstance(step, bool) or not isinstance(step, int) or not -1 <= step <= last:
            raise ValueError(f"step: expected an index from 0 to {last}, or -1 for the last, got {step!r:.60}")
        return last if step == -1 else step

    def telling_word(self) -> int:
        """Index of the word whose attention is the most uneven; an unknown word only if there is no other."""
        attention = self.of_words()
        spread = np.where(self.known, attention.max(1), attention.max(1) - attention.max() - 1)
        return int(spread.argmax())

    def to_dict(self) -> dict[str, Any]:
        """Lists and plain numbers for JSON; each term also has its ``contribution``."""
        out: dict[str, Any] = _plain(self)
        for record, term in zip(out["terms"], self.terms, strict=True):
            record["contribution"] = term.contribution
        return out

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes :meth:`to_dict` as JSON, whole or not at all."""
        from ..data.json_object import write_json

        write_json(path, self.to_dict(), indent=1)


def _step_at(steps: tuple[AttentionStep, ...], step: int) -> AttentionStep:
    return steps[-1] if step < 0 else steps[min(step, len(steps) - 1)]


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [_plain(x) for x in value] if isinstance(value, tuple) else value
