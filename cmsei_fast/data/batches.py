"""Batches for the encoders: images as packed regions with their graphs, captions as packed tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..encoded import length_mask
from .split import Split, gather

_Batch = TypeVar("_Batch", "ImageBatch", "CaptionBatch")


def _move(batch: _Batch, device: torch.device | str) -> _Batch:
    """Copies the batch to a device; lengths stay on the CPU, where the operators read them."""
    values = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name != "lengths"}
    return replace(batch, **{k: v.to(device, non_blocking=True) for k, v in values.items() if isinstance(v, Tensor)})


def _pin(batch: _Batch) -> _Batch:
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return replace(batch, **{k: v.pin_memory() for k, v in values.items() if isinstance(v, Tensor)})


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """B images with ΣR regions; what the split does not have is None.

    Args:
        lengths: (B,) int64 on the CPU, regions of each image.
        features: (ΣR, Dx) floating.
        boxes: (ΣR, 4) float32 xyxy pixels; ``sizes`` (B, 2) float32 width and height in pixels.
        labels: (ΣR,) int64 objects, -1 for an unknown one.
        triplets: (E, 3) int64 subject region, predicate, object region within the image; ``owners`` (E,) int64 the
            image of each; ``scores`` (E,) float32 confidence.
    """

    lengths: Tensor
    features: Tensor | None = None
    boxes: Tensor | None = None
    sizes: Tensor | None = None
    labels: Tensor | None = None
    triplets: Tensor | None = None
    owners: Tensor | None = None
    scores: Tensor | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device | str) -> ImageBatch:
        """The same batch on a device (lengths stay on the CPU)."""
        return _move(self, device)

    def pin_memory(self) -> ImageBatch:
        """The same batch in page-locked memory, as ``DataLoader`` asks for it."""
        return _pin(self)

    def mask(self, device: torch.device | str) -> Tensor:
        """(B, R) bool, True for regions."""
        return length_mask(self.lengths).to(device)


@dataclass(frozen=True, eq=False)
class CaptionBatch:
    """M captions with ΣL tokens.

    Args:
        lengths: (M,) int64 on the CPU, tokens of each caption.
        tokens: (ΣL,) int64, numbers of the text encoder's vocabulary.
    """

    lengths: Tensor
    tokens: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device | str) -> CaptionBatch:
        """The same batch on a device (lengths stay on the CPU)."""
        return _move(self, device)

    def pin_memory(self) -> CaptionBatch:
        """The same batch in page-locked memory, as ``DataLoader`` asks for it."""
        return _pin(self)


def image_batch(split: Split, images: Sequence[int] | np.ndarray) -> ImageBatch:
    """Reads images (n,) of a split, in the order given."""
    chosen = np.asarray(images, dtype=np.int64)
    rows, offsets = gather(split.offsets, chosen)
    parts: dict[str, Any] = {"lengths": np.diff(offsets)}
    if split.features is not None:
        shape = (len(rows), int(split.features.shape[1]))
        features = np.empty(shape, dtype=split.features.dtype)
        for i, to, end in zip(chosen, offsets[:-1], offsets[1:], strict=True):  # slices: a file is read image by image
            features[to:end] = split.features[split.offsets[i] : split.offsets[i + 1]]
        parts["features"] = features
    if split.boxes is not None and split.sizes is not None:
        parts["boxes"], parts["sizes"] = split.boxes[rows], split.sizes[chosen]
    if split.labels is not None:
        parts["labels"] = split.labels[rows].astype(np.int64)
    if split.relations is not None and split.relation_offsets is not None:
        edges, offsets = gather(split.relation_offsets, chosen)
        parts["triplets"] = split.relations[edges].astype(np.int64)
        parts["owners"] = np.repeat(np.arange(len(chosen)), np.diff(offsets))
        if split.relation_scores is not None:
            parts["scores"] = split.relation_scores[edges]
    return ImageBatch(**{name: torch.from_numpy(array) for name, array in parts.items()})


def caption_batch(tokens: Sequence[Sequence[int]]) -> CaptionBatch:
    """Packs captions given as lists of tokens, each with at least one."""
    lengths = torch.tensor([len(caption) for caption in tokens], dtype=torch.int64, device="cpu")
    return CaptionBatch(
        lengths, torch.tensor([token for caption in tokens for token in caption], dtype=torch.int64, device="cpu")
    )


def require_part(name: str, value: Tensor | None) -> Tensor:
    """Returns a part of the batch that the model needs.

    Raises:
        ValueError: if the split does not have that part.
    """
    if value is None:
        raise ValueError(f"{name}: expected images with {name} (the model is built on them), got a split without")
    return value
