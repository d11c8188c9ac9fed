"""The words in a batch's captions that name relations, with the batch's numbers of images and captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.mentions import Mention, Mentions
from ..data.split import Split
from ..model import CMSEI


@dataclass(frozen=True, eq=False)
class MentionBatch:
    """The K words in a process's captions that mention relations of their images.

    Args:
        images: (K,) int64, the image of each among those of the whole batch.
        captions: (K,) int64, its caption among the process's; ``words`` (K,) int64, its place in the caption.
        relations: (E, 3) int64: which of the K words, then subject and object region, counted within the image.
        counts: K of each process.
    """

    images: Tensor
    captions: Tensor
    words: Tensor
    relations: Tensor
    counts: tuple[int, ...]

    def pin_memory(self) -> MentionBatch:
        """The same in page-locked memory."""
        return self._each(Tensor.pin_memory)

    def to(self, device: torch.device | str) -> MentionBatch:
        """The same on a device."""
        return self._each(lambda x: x.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> MentionBatch:
        moved = (change(self.images), change(self.captions), change(self.words), change(self.relations))
        return MentionBatch(*moved, counts=self.counts)


def mention_batch(
    mentions: Sequence[Sequence[Mention]], captions: Sequence[np.ndarray], rank: int, owner: np.ndarray
) -> MentionBatch:
    """The mentions in one process's captions.

    Args:
        mentions: of each caption of the split.
        captions: of each process, which captions it has.
        rank: of the process.
        owner: (M,) for each caption of all processes, the place of its image among the batch's.
    """
    first = sum(map(len, captions[:rank]))
    rows: list[tuple[int, int, int]] = []
    relations: list[tuple[int, int, int]] = []
    for place, caption in enumerate(captions[rank]):
        for word, ends in mentions[caption]:
            relations += [(len(rows), subject, target) for subject, target in ends.tolist()]
            rows.append((int(owner[first + place]), place, word))
    images, own, words = torch.tensor(rows, dtype=torch.int64, device="cpu").view(-1, 3).T.contiguous()
    counts = tuple(sum(len(mentions[caption]) for caption in part) for part in captions)
    return MentionBatch(
        images, own, words, torch.tensor(relations, dtype=torch.int64, device="cpu").view(-1, 3), counts
    )


def find_mentions(model: CMSEI, split: Split) -> list[list[Mention]]:
    """Of each caption of a training split, the words that speak of relations of its image.

    Raises:
        ValueError: where ``grounding`` cannot be had: a score in which words do not ask, a split without scene graphs
            or without a caption that speaks of them.
    """
    t2i = model.config.scorer.t2i
    if t2i is None or t2i.weight == 0:
        raise ValueError("grounding: expected a scorer with t2i (words attend to regions), got one without")
    for name in ("labels", "relations"):
        if getattr(split, name) is None:
            raise ValueError(f"grounding: expected a training split with {name} (scene graphs), got one without")
    find = Mentions(split)
    pairs = zip(split.captions, split.caption_to_image.tolist(), strict=True)
    found = [find([word for word, _ in model.text.spell(caption)], image) for caption, image in pairs]
    if not any(found):
        raise ValueError("grounding: expected captions that name relations of their images, got none that does")
    return found
