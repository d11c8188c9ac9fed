"""CMSEI: graph-enhanced regions and words in one space, scored by cross-level interactive attention.

Ge et al., "Cross-modal Semantic Enhanced Interaction for Image-Sentence Retrieval" (WACV 2023). The order and purpose
of the modules are the paper's; each equation is the closest standard form of the field, named where it stands.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import normalize

from .. import nn
from ..checks import is_whole
from ..data.batches import CaptionBatch, ImageBatch, caption_batch, image_batch
from ..data.renumber import renumber
from ..data.split import Split
from ..data.vocabulary import Vocabulary
from ..encoded import Encoded
from ..exchange import place_in
from ..progress import Steps
from ..scorer import PairScorer
from ..shared_encoding import encoded_by_all
from .config import ModelConfig
from .dropout import Dropout
from .graph_reasoning import GraphReasoning
from .region_dropout import kept_regions, without_regions
from .region_encoder import RegionEncoder
from .text_encoder import GRUEncoder, TransformerEncoder
from .words import WordEmbedding


class CMSEI(Module):
    """The whole model: image encoder, text encoder and interaction.

    Args:
        config: what it is made of.
        vocabulary: the words of captions and of objects' and predicates' names.
        text_structure: directory with the configuration and tokenizer of a transformer whose weights are loaded later,
            as in a saved model; None loads the transformer with its weights.

    Attributes:
        score: :class:`cmsei_fast.nn.PairScore`, the interaction with its learned weights, temperatures and gates.

    Raises:
        TypeError: for arguments of a wrong type.
        ImportError, OSError: if the transformer cannot be loaded.
    """

    def __init__(self, config: ModelConfig, vocabulary: Vocabulary, *, text_structure: Any = None) -> None:
        super().__init__()
        if not isinstance(config, ModelConfig):
            raise TypeError(f"config: expected a ModelConfig, got {type(config).__name__}")
        if not isinstance(vocabulary, Vocabulary):
            raise TypeError(f"vocabulary: expected a Vocabulary, got {type(vocabulary).__name__}")
        self.config, self.vocabulary = config, vocabulary
        self.words = WordEmbedding(vocabulary, config.word_width, config.width, config.trained_words)
        self.regions = RegionEncoder(config, vocabulary)
        self.reasoning = GraphReasoning(config, vocabulary)
        self.text: GRUEncoder | TransformerEncoder
        if config.transformer is None:
            self.text = GRUEncoder(config, vocabulary)
        else:
            self.text = TransformerEncoder(config, text_structure)
        self.dropout = Dropout(config.dropout)
        self.score = nn.PairScore(config.scorer)

    @property
    def scorer(self) -> PairScorer:
        """The scorer with the learned weights, temperatures and gates."""
        return self.score.scorer

    def forward(self, images: ImageBatch, captions: CaptionBatch) -> Tensor:
        """Scores (B, M) of every image with every caption of a batch, float32; differentiable.

        Raises:
            TypeError: for anything but an :class:`ImageBatch` and a :class:`CaptionBatch`.
        """
        return self.interact(self.embed_images(images), self.embed_captions(captions))

    def embed_images(self, batch: ImageBatch, kept: Tensor | None = None) -> Encoded:
        """Unit regions (ΣR, D) of a batch, differentiable; in training, region dropout applies.

        Args:
            batch: the images.
            kept: (ΣR,) bool on the CPU, the regions to keep; None draws them by :meth:`draw_regions`.
        """
        _check_batch(batch, ImageBatch, "encode_images takes a split")
        kept = self.draw_regions(batch) if kept is None else kept
        if kept is not None:
            batch = without_regions(batch, kept)
        rows = self.reasoning(self.regions(batch, self.words), batch, self.words)
        return Encoded(normalize(self.dropout(rows), dim=-1), batch.lengths)

    def draw_regions(self, batch: ImageBatch) -> Tensor | None:
        """(ΣR,) bool on the CPU: the regions that a training step keeps, drawn at random; None if it keeps all."""
        if not (self.training and self.config.region_dropout):
            return None
        return kept_regions(batch.lengths, self.config.region_dropout)

    def embed_captions(self, batch: CaptionBatch) -> Encoded:
        """Unit words (ΣL, D) of a batch, differentiable."""
        _check_batch(batch, CaptionBatch, "encode_captions takes sentences")
        encoded = self.text(batch, self.words)
        return Encoded(normalize(encoded.rows, dim=-1), encoded.lengths)

    def interact(self, images: Encoded, captions: Encoded) -> Tensor:
        """Scores (N, M) of N encoded images (ΣR, D) with M encoded captions (ΣL, D); differentiable.

        Raises:
            TypeError, ValueError: as :func:`cmsei_fast.pair_score` does.
        """
        regions, words = images.rows, captions.rows
        if regions.dtype != words.dtype:
            dtype = torch.promote_types(regions.dtype, words.dtype)
            regions, words = regions.to(dtype), words.to(dtype)
        scores: Tensor = self.score(regions, words, images.offsets, captions.offsets)
        return scores

    def aligned(self, split: Split) -> Split:
        """The split with objects and predicates renumbered as in the model, by their names."""
        return renumber(split, self.config.object_names, self.config.predicate_names)

    @torch.no_grad()
    def encode_images(
        self,
        split: Split,
        indices: Sequence[int] | np.ndarray | None = None,
        *,
        batch_size: int = 128,
        progress: bool = False,
        group: Any = None,
    ) -> Encoded:
        """Regions of a split's images as :func:`cmsei_fast.score_matrix` takes them, without gradients or dropout.

        Args:
            split: the images; it may number the names of objects and predicates differently than the model.
            indices: which images, in this order; None is all.
            batch_size: number of images read and encoded at a time.
            progress: show a bar that counts images.
            group: of torch.distributed: its processes, each with the same call, share the batches; all get all rows,
                bit-identical to those of one process. None: this process alone.

        Returns:
            Rows (ΣR, D) float32 on the model's device.

        Raises:
            TypeError: if ``split`` is not a Split, or the indices are not integers.
            ValueError: for wrong indices or a wrong batch size, and for a split that lacks what the model is built on.
            ProcessLost: if another process of the group failed or is lost.
        """
        _check_batch_size(batch_size)
        if not isinstance(split, Split):
            raise TypeError(f"split: expected a Split (open_split reads one), got {type(split).__name__}")
        split = self.aligned(split)
        numbers = np.arange(len(split)) if indices is None else np.asarray(indices)
        if numbers.ndim != 1:
            raise ValueError(f"indices: expected (n,) integers, got shape {numbers.shape}")
        if numbers.size and numbers.dtype.kind not in "iu":  # a mask would be read as images 0 and 1
            raise TypeError(f"indices: expected integers, got {numbers.dtype}")
        numbers = numbers.astype(np.int64)
        if numbers.size and not (numbers.min() >= 0 and numbers.max() < len(split)):
            raise ValueError(
                f"indices: expected images from 0 to {len(split) - 1}, got {numbers.min()} to {numbers.max()}"
            )
        batches = [numbers[i : i + batch_size] for i in range(0, len(numbers), batch_size)]

        def embed(batch: np.ndarray, device: torch.device) -> Encoded:
            return self.embed_images(image_batch(split, batch).to(device))

        return self._encode(embed, batches, "image" if progress else None, group)

    @torch.no_grad()
    def encode_captions(
        self, captions: Sequence[str], *, batch_size: int = 512, progress: bool = False, group: Any = None
    ) -> Encoded:
        """Words of sentences as :func:`cmsei_fast.score_matrix` takes them, without gradients or dropout.

        Args:
            captions: M sentences.
            batch_size: number of sentences encoded at a time; sentences of similar length are encoded together.
            progress: show a bar that counts captions.
            group: as in :meth:`encode_images`.

        Returns:
            Rows (ΣL, D) float32 on the model's device, in the order of the captions.

        Raises:
            TypeError: if ``captions`` is not a sequence of sentences.
            ValueError: for a batch size below 1.
            ProcessLost: if another process of the group failed or is lost.
        """
        if isinstance(captions, str) or not isinstance(captions, Iterable):
            got = f"one string {captions!r:.60}" if isinstance(captions, str) else type(captions).__name__
            raise TypeError(f"captions: expected a sequence of sentences, got {got}")
        _check_batch_size(batch_size)
        captions = list(captions)
        for j, caption in enumerate(captions):
            if not isinstance(caption, str):
                raise TypeError(f"captions[{j}]: expected a sentence, got {type(caption).__name__}")
        tokens = [self.text.tokenize(caption) for caption in captions]
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        batches = [order[j : j + batch_size] for j in range(0, len(order), batch_size)]
        # Dealt in turn, so that each process gets short and long captions.
        size = place_in(group)[1]
        batches = [batch for rank in range(size) for batch in batches[rank::size]]
        order = [i for batch in batches for i in batch]

        def embed(batch: list[int], device: torch.device) -> Encoded:
            return self.embed_captions(caption_batch([tokens[i] for i in batch]).to(device))

        encoded = self._encode(embed, batches, "caption" if progress else None, group)
        return encoded[np.argsort(order)]

    def _encode(self, embed: Any, batches: Sequence[Any], unit: str | None, group: Any) -> Encoded:
        """Encodes all batches in order; each process of a group encodes a consecutive part and gets all rows."""
        rank, size = place_in(group)
        batch_counts = [len(batches[r::size]) for r in range(size)]
        own_batches = batches[sum(batch_counts[:rank]) : sum(batch_counts[: rank + 1])]
        return encoded_by_all(lambda: self._encode_alone(embed, own_batches, unit), group)

    def _encode_alone(self, embed: Any, batches: Sequence[Any], unit: str | None) -> Encoded:
        device, training = self.words.project.weight.device, self.training
        self.eval()
        bar_context: Any = (
            contextlib.nullcontext() if unit is None else Steps(sum(map(len, batches)), unit, f"encode {unit}s")
        )
        parts = [
            Encoded(torch.empty(0, self.config.width, device=device), torch.empty(0, dtype=torch.int64, device="cpu"))
        ]
        try:
            with bar_context as bar:
                for batch in batches:
                    encoded = embed(batch, device)
                    parts.append(encoded.to(torch.float32))
                    if bar is not None:
                        bar.update(len(encoded))
        finally:
            self.train(training)
        return Encoded.cat(parts)

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes ``config.json``, ``vocabulary.json`` and ``model.safetensors``, and a transformer's own configuration
        and tokenizer in ``text/``: all or nothing. A saved model that is already there is replaced.

        Raises:
            OSError: if the directory cannot be written, or holds something other than a saved model.
        """
        from .pretrained import save

        save(self, directory)

    @classmethod
    def from_pretrained(
        cls, directory: str | os.PathLike[str], device: torch.device | str = "cpu", **changes: Any
    ) -> CMSEI:
        """Reads what :meth:`save_pretrained` wrote, to evaluate or to train further; no pickle is read.

        Args:
            directory: of the saved model.
            device: to load it on.
            changes: fields of its :class:`ModelConfig` to change for further training: ``dropout``, ``word_dropout``,
                ``region_dropout``, ``confidence_threshold`` and ``scorer``. A scorer other than the configuration's
                starts with its own numbers instead of the learned ones.

        Raises:
            OSError: if there is no such directory or file.
            TypeError, ValueError: naming the file and what is wrong with it, a device that is not available, a field
                that cannot be changed, or its value.
        """
        from .pretrained import load

        return load(directory, device, changes)


def _check_batch(batch: Any, kind: type, hint: str) -> None:
    if not isinstance(batch, kind):
        article = "an" if kind is ImageBatch else "a"
        raise TypeError(f"batch: expected {article} {kind.__name__}, got {type(batch).__name__}; {hint}")


def _check_batch_size(value: Any) -> None:
    if not is_whole(value):
        raise ValueError(f"batch_size: expected an integer >= 1, got {value!r}")
