"""The embedding shared by the captions' words and the names of objects and predicates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import Linear, Module, Parameter
from torch.nn.functional import embedding

from ..data.lexical import singular, word_vector
from ..data.vocabulary import PAD, Vocabulary

_CHUNK_WORDS = 1 << 15  # words whose own vectors are made into one table at a time


class WordEmbedding(Module):
    """Words to vectors, and to the joint space.

    Args:
        vocabulary: the words.
        width: of a word's vector; ``joint_width`` D of the joint space.
        trained: how many words, the first of the vocabulary, have a vector that learns; None is all. The projection
            always learns.
    """

    def __init__(self, vocabulary: Vocabulary, width: int, joint_width: int, trained: int | None = None) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        count = len(vocabulary) if trained is None else min(trained, len(vocabulary))
        self.width, self.trained = width, Parameter(torch.empty(count, width))
        self.fixed: Tensor
        self.register_buffer("fixed", torch.empty(len(vocabulary) - count, width))
        self._fill(torch.randn(len(vocabulary), width).mul_(width**-0.5))
        self.project = Linear(width, joint_width, bias=False)
        torch.nn.init.orthogonal_(self.project.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., width) vectors of word numbers (...)."""
        count = len(self.trained)
        if not len(self.fixed):
            return embedding(tokens, self.trained, padding_idx=PAD)
        fixed = embedding((tokens - count).clamp(min=0), self.fixed)
        if not count:
            return fixed
        # Two tables, so that no step touches the many vectors that do not learn.
        learned = embedding(tokens.clamp(max=count - 1), self.trained, padding_idx=PAD)
        return torch.where((tokens < count)[..., None], learned, fixed)

    def names(self, numbers: Tensor) -> Tensor:
        """(n, width): the mean vector of the words of each name, from :func:`name_tokens`."""
        is_word = (numbers != PAD)[..., None]
        return (self(numbers) * is_word).sum(1) / is_word.sum(1).clamp(min=1)

    @torch.no_grad()
    def load(self, vectors: Mapping[str, np.ndarray]) -> int:
        """Starts from pretrained vectors; returns how many of the vocabulary's words have one.

        They are centred and scaled to a mean length of 1. Where the embedding is wider, the places left hold a unit
        vector of each word's own, nearly orthogonal to all others and shared with its plural: a word starts as itself,
        and near the words that are like it.

        Raises:
            ValueError: for vectors that are wider than the embedding, or all the same: centred, nothing is left.
        """
        # One table of a million words takes hundreds of megabytes: only one is made here, and it is changed in place.
        found = [(i, vectors[word]) for word, i in self.vocabulary.index.items() if word in vectors]
        values = torch.from_numpy(np.stack([vector for _, vector in found])) if found else torch.zeros(1, 0)
        width = values.shape[1]
        if width > self.width:
            raise ValueError(f"vectors: expected a width of at most {self.width}, got {width}")
        if found and (values == values[0]).all():
            got = "1" if len(found) == 1 else f"{len(found)}, all the same"
            raise ValueError(f"vectors: expected at least two that differ for the vocabulary's words, got {got}")
        self.trained.zero_()
        self.fixed.zero_()
        if found:
            values -= values.mean(0)
            values /= values.norm(dim=1).mean()
            self._fill(values, torch.tensor([i for i, _ in found], device="cpu"))
        del values
        if width < self.width:
            singulars = {word: singular(word) for word in self.vocabulary.words}
            unit_vectors = {word: word_vector(word, self.width - width) for word in set(singulars.values())}
            for start in range(0, len(self.vocabulary), _CHUNK_WORDS):
                words = self.vocabulary.words[start : start + _CHUNK_WORDS]
                units = torch.from_numpy(np.stack([unit_vectors[singulars[word]] for word in words]))
                self._fill(units, torch.arange(start, start + len(words), device="cpu"), width)
        return len(found)

    @torch.no_grad()
    def _fill(self, values: Tensor, indices: Tensor | None = None, first_column: int = 0) -> None:
        """Writes values (n, w) into the rows ``indices`` (ascending; None for all), from column ``first_column`` on."""
        indices = torch.arange(len(values), device="cpu") if indices is None else indices
        count = len(self.trained)
        learned, columns = int((indices < count).sum()), slice(first_column, first_column + values.shape[1])
        self.trained[indices[:learned], columns] = values[:learned].to(self.trained)
        self.fixed[indices[learned:] - count, columns] = values[learned:].to(self.fixed)
        (self.trained if count else self.fixed)[PAD] = 0


def name_tokens(names: Sequence[str], vocabulary: Vocabulary) -> Tensor:
    """(n, longest) word numbers of names, ``<pad>`` behind; an unknown word is ``<unk>``."""
    numbers = [vocabulary.encode(name) for name in names]
    out = torch.full((len(names), max(map(len, numbers), default=1)), PAD, device="cpu")
    for row, words in zip(out, numbers, strict=True):
        row[: len(words)] = torch.tensor(words, device="cpu")
    return out
