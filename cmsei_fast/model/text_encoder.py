"""Captions to the joint space: the usual bidirectional GRU, or a Hugging Face text model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import GRU, Linear, Module, Parameter
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ..compiling import outside_graphs
from ..data.batches import CaptionBatch
from ..data.vocabulary import SPECIAL, UNKNOWN, Vocabulary
from ..encoded import Encoded, length_mask
from .config import ModelConfig
from .dropout import Dropout
from .words import WordEmbedding

_HUB_SECONDS = 10  # for the Hugging Face hub to answer


class GRUEncoder(Module):
    """Words by a bidirectional GRU whose two directions are averaged (SCAN, Lee et al. 2018).

    Args:
        config: ``word_residual`` adds the word's own projected vector to a small part of the GRU's output, so that a
            word starts as itself.
        vocabulary: splits captions into words and numbers them.
    """

    def __init__(self, config: ModelConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.vocabulary, self.word_dropout = vocabulary, config.word_dropout
        self.gain = Parameter(torch.tensor(0.1)) if config.word_residual else None
        self.gru = GRU(config.word_width, config.width, batch_first=True, bidirectional=True)
        self.dropout = Dropout(config.dropout)

    def tokenize(self, caption: str) -> list[int]:
        """Numbers of a caption's words, at least one."""
        return self.vocabulary.encode(caption)

    def spell(self, caption: str) -> list[tuple[str, bool]]:
        """A caption's words as they stand in it, and whether the vocabulary knows each; as many as :meth:`tokenize`."""
        words, start = [], 0
        for word in self.vocabulary.tokenizer(caption):
            position = caption.lower().find(word, start)
            known = self.vocabulary.knows(word)
            # Where the tokenizer changes words, or lower case their length, the tokenizer's word is shown.
            original = caption[position : position + len(word)] if position >= 0 else ""
            words.append((original if original.lower() == word else word, known))
            start = position + len(word) if position >= 0 else start
        return words or [(SPECIAL[UNKNOWN], False)]

    def forward(self, batch: CaptionBatch, words: WordEmbedding) -> Encoded:
        """Words (ΣL, D) of the captions."""
        tokens = batch.tokens
        if self.training and self.word_dropout:
            dropped = torch.rand(tokens.shape, device=tokens.device) < self.word_dropout
            tokens = tokens.masked_fill(dropped, UNKNOWN)
        vectors = self.dropout(words(tokens))  # (ΣL, word_width)
        forwards, backwards = self._states(vectors, batch.lengths).chunk(2, -1)
        out = self.dropout((forwards + backwards) / 2)
        return Encoded(out if self.gain is None else words.project(vectors) + self.gain * out, batch.lengths)

    @outside_graphs
    def _states(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """(ΣL, 2 D): the states of both directions."""
        mask = length_mask(lengths).to(vectors.device)
        padded = vectors.new_zeros(*mask.shape, vectors.shape[-1])
        padded[mask] = vectors
        packed = pack_padded_sequence(padded, lengths, batch_first=True, enforce_sorted=False)
        states: Tensor = pad_packed_sequence(self.gru(packed)[0], batch_first=True)[0][mask]
        return states


class TransformerEncoder(Module):
    """Words by a Hugging Face text model, projected; special tokens are left out where a caption has others.

    Args:
        config: ``transformer`` is a local directory or a hub name (needs the extra ``transformers``).
        structure: of the model and its tokenizer where the weights come later, as in a saved model; else None.

    Raises:
        ImportError: if ``transformers`` is not installed.
        OSError: if there is no such model, or it is not in the hub's cache and the hub cannot be reached.
    """

    def __init__(self, config: ModelConfig, structure: Any = None) -> None:
        super().__init__()
        transformers = _transformers()
        assert config.transformer is not None
        source = config.transformer if structure is None else structure
        with _cache_only_if_unreachable(source) as local:
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(source, local_files_only=local)
            if structure is None:
                self.model = transformers.AutoModel.from_pretrained(source, local_files_only=local)
        if structure is not None:
            self.model = transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(source))
        self.model.float()  # whatever dtype its weights are kept in
        self.limit = min(self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", 512))
        self.project = Linear(self.model.config.hidden_size, config.width)
        self.dropout = Dropout(config.dropout)
        special = torch.zeros(len(self.tokenizer), dtype=torch.bool)
        special[self.tokenizer.all_special_ids] = True
        if self.tokenizer.unk_token_id is not None:
            special[self.tokenizer.unk_token_id] = False  # an unknown word is a word
        self.special: Tensor
        self.register_buffer("special", special, persistent=False)

    def tokenize(self, caption: str) -> list[int]:
        """Numbers of a caption's tokens, special ones included, cut to the model's longest input."""
        tokens: list[int] = self.tokenizer(caption, truncation=True, max_length=self.limit)["input_ids"]
        return tokens or [self.tokenizer.eos_token_id or 0]  # of no word, by a tokenizer that adds none of its own

    def spell(self, caption: str) -> list[tuple[str, bool]]:
        """The tokens that :meth:`forward` gives rows for, and whether the tokenizer knows each."""
        tokens = self.tokenize(caption)
        special = self.special.tolist()
        kept = [t for t in tokens if not special[t]] or tokens
        spelt = [self.tokenizer.decode([t]).strip() or self.tokenizer.convert_ids_to_tokens(t) for t in kept]
        return [(text, t != self.tokenizer.unk_token_id) for text, t in zip(spelt, kept, strict=True)]

    def forward(self, batch: CaptionBatch, words: WordEmbedding | None = None) -> Encoded:
        """Words of the captions, (ΣL', D): fewer than tokens, for special ones are left out.

        ``words`` is what :class:`GRUEncoder` is given; a transformer has an embedding of its own.
        """
        padded, mask = self._padded(batch)
        states = self.model(input_ids=padded, attention_mask=mask.long()).last_hidden_state
        kept, lengths = self._words(states, mask, batch)
        return Encoded(self.dropout(self.project(kept)), lengths)

    @outside_graphs
    def _padded(self, batch: CaptionBatch) -> tuple[Tensor, Tensor]:
        """(M, longest) tokens, and which of them are a caption's own."""
        mask = length_mask(batch.lengths).to(batch.tokens.device)
        padded = batch.tokens.new_full(mask.shape, self.tokenizer.pad_token_id or 0)
        padded[mask] = batch.tokens
        return padded, mask

    @outside_graphs
    def _words(self, states: Tensor, mask: Tensor, batch: CaptionBatch) -> tuple[Tensor, Tensor]:
        """(ΣL', hidden) states of words, and how many each caption has."""
        owners = torch.repeat_interleave(torch.arange(len(batch), device="cpu"), batch.lengths).to(states.device)
        word = ~self.special[batch.tokens]
        wordless = torch.bincount(owners[word], minlength=len(batch)) == 0
        kept = word | wordless[owners]
        return states[mask][kept], torch.bincount(owners[kept], minlength=len(batch)).cpu()


@contextmanager
def _cache_only_if_unreachable(source: Any) -> Iterator[bool]:
    """Whether to read a model from the cache alone; one request finds out: the library would retry for a minute."""
    if os.path.isdir(source):
        yield True
        return
    problem = _hub_problem()
    try:
        yield problem is not None
    except OSError as error:
        if problem is None:
            raise
        expected = "a directory, or the name of a model of the Hugging Face hub that is in its cache"
        raise OSError(f"transformer: expected {expected}, got {source!r}, and {problem}") from error


def _hub_problem() -> str | None:
    """Why the Hugging Face hub cannot be asked; None where it can."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_HUB_SECONDS)
    except Exception as error:  # of whichever HTTP client the library has
        return f"{constants.ENDPOINT} cannot be reached ({error})"
    return None


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            f"transformer: expected the package transformers (pip install transformers), {error}"
        ) from None
    return transformers
