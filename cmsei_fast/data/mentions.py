"""Which relations of an image's scene graph the words of a caption speak of, by their names alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .lexical import singular, tokenize
from .split import Split

_SUBJECT, _OBJECT = 1, 2


class Mention(NamedTuple):
    """One word of a caption that speaks of relations.

    Args:
        word: its place in the caption.
        ends: (E, 2) int64, subject and object region of each relation, counted within the image.
    """

    word: int
    ends: np.ndarray


class Mentions:
    """Finds the relations that a caption's words speak of in its image's scene graph.

    A word speaks of a relation if it is a form of the predicate's first word (``sits`` of ``sitting on``; a predicate
    that begins with no verb in ``-ing`` must stand there whole), and the caption names an end of the relation by the
    last word of its label: the subject before the word, or the object behind it. Of the image's relations that the word
    may mean, those count of which most is named: both ends, else the object, else the subject.

    Args:
        split: with labels and relations.

    Raises:
        ValueError: for a split without.
    """

    def __init__(self, split: Split) -> None:
        if split.labels is None:
            raise ValueError("labels: expected a split with labels, got one without")
        if split.relations is None or split.relation_offsets is None:
            raise ValueError("relations: expected a split with relations, got one without")
        self._labels, self._offsets = split.labels, split.offsets
        self._relations, self._relation_offsets = split.relations, split.relation_offsets
        self._nouns = [_noun(name) for name in split.object_names] + [""]  # of label -1 too
        self._predicates = [_predicate(name) for name in split.predicate_names]

    def __call__(self, words: Sequence[str], image: int) -> list[Mention]:
        """Those of a caption, given as its words, in the image of that number."""
        edges = slice(*self._relation_offsets[image : image + 2].tolist())
        relations = self._relations[edges].tolist()
        words = [word.lower() for word in words]
        stems = [stem(word) for word in words]
        if not relations or {self._predicates[p][0] for _, p, _ in relations}.isdisjoint(stems):
            return []
        labels = self._labels[self._offsets[image] : self._offsets[image + 1]].tolist()
        nouns = [singular(word) for word in words]
        found = []
        for place, own in enumerate(stems):
            before, behind = set(nouns[:place]), set(nouns[place + 1 :])
            named: dict[int, list[tuple[int, int]]] = {}
            for subject, predicate, target in relations:
                head, rest = self._predicates[predicate]
                if head == own and words[place + 1 : place + 1 + len(rest)] == rest and subject != target:
                    told = _SUBJECT * (self._nouns[labels[subject]] in before)
                    told += _OBJECT * (self._nouns[labels[target]] in behind)
                    named.setdefault(told, []).append((subject, target))
            if most := max(named, default=0):
                found.append(Mention(place, np.array(named[most], dtype=np.int64)))
        return found


@lru_cache(maxsize=2**16)
def stem(word: str) -> str:
    """What the forms of a verb have in common, crudely: ``wears`` and ``wearing`` are one, ``sits`` and ``sitting``."""
    word = singular(word)
    if word.endswith("ing") and len(word) > 5:
        word = word[:-3]
        if word[-1] == word[-2] and word[-1] not in "ls":
            word = word[:-1]
    return word[:-1] if word.endswith("e") and len(word) > 3 else word


def _noun(name: str) -> str:
    """The last word of an object's name in the singular."""
    return singular((tokenize(name) or [""])[-1])


def _predicate(name: str) -> tuple[str, list[str]]:
    """The stem of a predicate's first word, and the words that must follow it."""
    first, *rest = tokenize(name) or [""]
    return stem(first), [] if first.endswith("ing") else rest
