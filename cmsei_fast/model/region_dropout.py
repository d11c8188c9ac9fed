"""Chooses the regions that a training step leaves out, and makes the batch without them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..data.batches import ImageBatch


def kept_regions(lengths: Tensor, chance: float) -> Tensor:
    """(ΣR,) bool: False for each region with that chance, but one of each image always stays.

    Args:
        lengths: (B,) int64 on the CPU, regions of each image.
        chance: in [0, 1].
    """
    kept = torch.rand(int(lengths.sum()), device="cpu") >= chance
    owner = torch.repeat_interleave(torch.arange(len(lengths), device="cpu"), lengths)
    empty = torch.bincount(owner[kept], minlength=len(lengths)) == 0
    kept[(lengths.cumsum(0) - lengths)[empty]] = True
    return kept


def without_regions(batch: ImageBatch, kept: Tensor) -> ImageBatch:
    """The batch with only the regions that are ``kept`` (ΣR,) bool, and the relations between them."""
    old_starts = torch.cat([batch.lengths.new_zeros(1), batch.lengths.cumsum(0)])
    owner = torch.repeat_interleave(torch.arange(len(batch), device="cpu"), batch.lengths)
    lengths = torch.bincount(owner[kept], minlength=len(batch))
    new_starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    # The number of each kept region within its image.
    number = kept.cumsum(0) - 1 - new_starts[:-1].repeat_interleave(batch.lengths)

    device = next(x.device for x in (batch.features, batch.labels, batch.boxes) if x is not None)
    kept_on_device, number, row_starts = kept.to(device), number.to(device), old_starts.to(device)
    parts: dict[str, Any] = {"lengths": lengths, "sizes": batch.sizes}
    for name in ("features", "boxes", "labels"):
        value = getattr(batch, name)
        parts[name] = None if value is None else value[kept_on_device]
    if batch.triplets is not None and batch.owners is not None:
        ends = row_starts[batch.owners][:, None] + batch.triplets[:, ::2]  # (E, 2) rows of subject and object
        kept_triplets = kept_on_device[ends].all(1)
        new_ends = number[ends]
        triplets = torch.stack([new_ends[:, 0], batch.triplets[:, 1], new_ends[:, 1]], 1)
        parts |= {"triplets": triplets[kept_triplets], "owners": batch.owners[kept_triplets]}
        parts["scores"] = None if batch.scores is None else batch.scores[kept_triplets]
    return ImageBatch(**parts)
