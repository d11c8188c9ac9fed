"""The structure of a model, as one frozen dataclass that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..known_fields import check_known, to_plain_scalars
from ..scorer import PairScorer, scorer_at_hand

RELATIONS = ("implicit", "spatial", "semantic")


@dataclass(frozen=True)
class ModelConfig:
    """Structure of a :class:`cmsei_fast.CMSEI`; SCAN is ``relations=()`` with ``PairScorer.scan_t2i()``.

    Args:
        width: dimension D of the joint space, a multiple of heads.
        feature_width: dimension Dx of the region features; 0 if regions have none.
        object_names: what region labels index; empty where labels are not used. A name's words share the embedding of
            the captions' words with the GRU.
        predicate_names: what scene-graph predicates index.
        boxes: whether a region's encoding includes the geometry of its box.
        relations: graphs to reason over, any of ``"implicit"``, ``"spatial"`` (needs boxes) and ``"semantic"`` (needs
            scene graphs); empty for none.
        layers: number of reasoning layers over each graph.
        heads: number of attention heads of each graph.
        confidence_threshold: confidence, in [0, 1], below which scene-graph relations are dropped.
        transformer: Hugging Face text model to encode captions with, a local directory or a hub name; a GRU if not
            given.
        word_width: dimension of the word embeddings.
        trained_words: number of words, from the start of the vocabulary, whose vectors are trained; all if not given.
        word_residual: whether a word's own embedding is added to the GRU's output.
        dropout: dropout probability at the inputs and outputs of the encoders, in [0, 1).
        word_dropout: probability of replacing a token by ``<unk>`` in training, in [0, 1); for the GRU only: must be 0
            with a transformer.
        region_dropout: probability of leaving out a region in training, in [0, 1); at least one always stays.
        scorer: structure and initial numbers of the score.

    Raises:
        TypeError, ValueError: naming the field, what it takes and what it was given.
    """

    width: int = 1024
    feature_width: int = 0
    object_names: tuple[str, ...] = ()
    predicate_names: tuple[str, ...] = ()
    boxes: bool = True
    relations: tuple[str, ...] = ("spatial", "semantic")
    layers: int = 1
    heads: int = 8
    confidence_threshold: float = 0.0
    transformer: str | None = None
    word_width: int = 300
    trained_words: int | None = None
    word_residual: bool = False
    dropout: float = 0.0
    word_dropout: float = 0.0
    region_dropout: float = 0.0
    scorer: PairScorer = field(default_factory=PairScorer.cmsei)

    def __post_init__(self) -> None:
        to_plain_scalars(self)
        for name, low in (("width", 1), ("feature_width", 0), ("layers", 1), ("heads", 1), ("word_width", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"{name}: expected an integer >= {low}, got {value!r}")
        if self.width % self.heads:
            raise ValueError(f"width: expected a multiple of heads = {self.heads}, got {self.width}")
        for name in ("object_names", "predicate_names", "relations"):
            value = getattr(self, name)
            if not isinstance(value, (tuple, list)) or not all(isinstance(x, str) for x in value):
                got = f"one string {value!r:.60}" if isinstance(value, str) else f"{value!r:.60}"
                raise TypeError(f"{name}: expected a tuple of strings, got {got}")
            object.__setattr__(self, name, tuple(value))
        for kind in self.relations:
            if kind not in RELATIONS:
                raise ValueError(f"relations: expected any of {', '.join(RELATIONS)}, got {kind!r}")
        if len(set(self.relations)) != len(self.relations):
            raise ValueError(f"relations: expected each kind once, got {', '.join(self.relations)}")
        if "semantic" in self.relations and not self.predicate_names:
            raise ValueError("predicate_names: expected the predicates of relations='semantic', got none")
        for name in ("boxes", "word_residual"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}: expected a bool, got {getattr(self, name)!r}")
        if self.trained_words is not None and not (type(self.trained_words) is int and self.trained_words >= 0):
            raise ValueError(f"trained_words: expected None or an integer >= 0, got {self.trained_words!r}")
        for name in ("dropout", "word_dropout", "region_dropout"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
                raise ValueError(f"{name}: expected a number in [0, 1), got {value!r}")
        value = self.confidence_threshold
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise ValueError(f"confidence_threshold: expected a number in [0, 1], got {value!r}")
        if self.transformer is not None and not isinstance(self.transformer, str):
            raise TypeError(f"transformer: expected None, a directory or a hub name, got {self.transformer!r}")
        if self.transformer is not None and self.word_dropout:
            raise ValueError(f"word_dropout: expected 0 with a transformer (it is the GRU's), got {self.word_dropout}")
        if not isinstance(self.scorer, PairScorer):
            got = f"{type(self.scorer).__name__}{scorer_at_hand(self.scorer)}"
            raise TypeError(f"scorer: expected a PairScorer, got {got}")
        if not self.feature_width and not self.object_names and not self.boxes:
            raise ValueError("feature_width: expected region features, object_names or boxes, got none of them")

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON; :meth:`from_dict` reads it back."""
        out = {f.name: getattr(self, f.name) for f in fields(self)}
        return out | {"scorer": self.scorer.to_dict()}

    @staticmethod
    def without_unread(values: Mapping[str, Any]) -> dict[str, Any]:
        """What :meth:`to_dict` gave, less what a transformer never read: models were saved with it."""
        return dict(values) if values.get("transformer") is None else {**values, "word_dropout": 0.0}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Inverse of :meth:`to_dict`.

        Raises:
            ValueError: for an unknown key, and as the constructor does.
        """
        check_known("model configuration", values, cls)
        scorer = values.get("scorer")
        return cls(**{**values, **({"scorer": PairScorer.from_dict(scorer)} if isinstance(scorer, dict) else {})})
