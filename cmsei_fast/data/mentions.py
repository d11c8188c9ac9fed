"""Which relations of an image's scene graph a caption's words mention, judged by names alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .lexical import singular, tokenize
from .split import Split

_SUBJECT, _OBJECT = 1, 2


class Mention(NamedTuple):
    """One word of a caption that mentions relations.

    Args:
        word: its place in the caption.
        ends: (E, 2) int64, subject and object region of each relation, counted within the image.
    """

    word: int
    ends: np.ndarray


class Mentions:
    """Finds the relations of its image's scene graph that a caption's words mention.

    A word mentions a relation if it is a form of the verb that the predicate begins with (``sits`` for ``sitting on``)
    and the caption names an end of the relation: the subject before the word, or the object after it. An end is named
    by the last word of its label, or of one of the label's aliases (Visual Genome's ``lady,woman``). Among the
    relations that the word may mean, those with the most ends named count: both ends, else the object, else the
    subject. Verbs are first words in ``-ing`` and their other forms. Prepositions, ``and`` and ``has`` are left out,
    since they mean too many things to say where a word should look.

    Args:
        split: with labels and relations.

    Raises:
        ValueError: for a split without either.
    """

    def __init__(self, split: Split) -> None:
        if split.labels is None:
            raise ValueError("labels: expected a split with labels, got one without")
        if split.relations is None or split.relation_offsets is None:
            raise ValueError("relations: expected a split with relations, got one without")
        self._labels, self._offsets = split.labels, split.offsets
        self._relations, self._relation_offsets = split.relations, split.relation_offsets
        self._nouns = [_nouns(name) for name in split.object_names] + [frozenset()]  # the last one for label -1
        self._verbs = verbs(split.predicate_names)

    def __call__(self, words: Sequence[str], image: int) -> list[Mention]:
        """Finds the mentions in a caption, a sequence of words, of relations of the image with that number."""
        edges = slice(*self._relation_offsets[image : image + 2].tolist())
        relations = [(s, self._verbs[p], o) for s, p, o in self._relations[edges].tolist() if s != o]
        words = [word.lower() for word in words]
        stems = [stem(word) for word in words]
        if {verb for _, verb, _ in relations}.isdisjoint(stems):
            return []
        labels = self._labels[self._offsets[image] : self._offsets[image + 1]].tolist()
        nouns = [singular(word) for word in words]
        found = []
        for place, word_stem in enumerate(stems):
            before, after = set(nouns[:place]), set(nouns[place + 1 :])
            by_ends: dict[int, list[tuple[int, int]]] = {}  # which ends the caption names -> relations
            for subject, verb, target in relations:
                if verb == word_stem:
                    ends = _SUBJECT * (not before.isdisjoint(self._nouns[labels[subject]]))
                    ends += _OBJECT * (not after.isdisjoint(self._nouns[labels[target]]))
                    by_ends.setdefault(ends, []).append((subject, target))
            if best := max(by_ends, default=0):
                found.append(Mention(place, np.array(by_ends[best], dtype=np.int64)))
        return found


@lru_cache(maxsize=2**16)
def stem(word: str) -> str:
    """Reduces the forms of a verb to one crude stem: ``wears`` and ``wearing`` agree, ``sits`` and ``sitting`` too."""
    word = singular(word)
    if word.endswith("ing") and any(letter in "aeiouy" for letter in word[:-3]):  # "string" is no verb
        word = word[:-3]
        if word[-2:-1] == word[-1:] and word[-1:] not in ("l", "s"):
            word = word[:-1]
    return word[:-1] if word.endswith("e") and len(word) > 2 else word


def _nouns(name: str) -> frozenset[str]:
    """The last word of each of an object's names in the singular."""
    return frozenset(singular(words[-1]) for alias in name.split(",") if (words := tokenize(alias)))


def verbs(predicate_names: Sequence[str]) -> list[str | None]:
    """The stem of the verb that each predicate begins with; None for one that begins with another word."""
    firsts = [(tokenize(name) or [""])[0] for name in predicate_names]
    known = {stem(first) for first in firsts if first.endswith("ing") and stem(first) != first}
    return [verb if (verb := stem(first)) in known else None for first in firsts]
