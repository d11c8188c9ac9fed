"""The order of captions in an epoch, and batches read by workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data.batches import CaptionBatch, ImageBatch, caption_batch, image_batch
from ..data.mentions import Mention
from ..data.split import Split
from .mentions import MentionBatch, mention_batch


@dataclass(frozen=True, eq=False)
class Share:
    """What one process encodes of a step's batch, and what it needs to know of the whole.

    Args:
        images: its images, or one that it leaves out where it has none; ``captions`` its captions.
        owner: (M,) int64, for each caption of the whole batch the place of its image among the batch's images.
        image_counts: images of each process; ``caption_counts`` captions of each.
        mentions: its words that speak of relations; None where they are not asked for.
    """

    images: ImageBatch
    captions: CaptionBatch
    owner: Tensor
    image_counts: tuple[int, ...]
    caption_counts: tuple[int, ...]
    mentions: MentionBatch | None = None

    def pin_memory(self) -> Share:
        """The same share in page-locked memory, as ``DataLoader`` asks for it."""
        return Share(
            self.images.pin_memory(),
            self.captions.pin_memory(),
            self.owner,
            self.image_counts,
            self.caption_counts,
            None if self.mentions is None else self.mentions.pin_memory(),
        )

    def to(self, device: torch.device | str) -> Share:
        """The same share on a device."""
        return Share(
            self.images.to(device),
            self.captions.to(device),
            self.owner.to(device),
            self.image_counts,
            self.caption_counts,
            None if self.mentions is None else self.mentions.to(device),
        )


class Batches(Dataset[Share]):
    """Steps of an epoch by their number: whole batches of captions, each caption at most once, with their images.

    Args:
        split: what is trained on.
        tokens: of each caption.
        batch_size: captions of a step over all processes; what is left of an epoch behind the last whole batch waits
            for the next shuffle (an epoch that has less than one batch is one batch).
        seed: of the order.
        neighbours: so many images that follow each other in the split come into a batch together, one caption of each.
        rank, world: this process among all.
        mentions: of each caption the words that speak of relations; None where they are not asked for.

    Raises:
        ValueError: there is no caption, or none for each process in a batch.
    """

    def __init__(
        self,
        split: Split,
        tokens: list[list[int]],
        batch_size: int,
        seed: int,
        neighbours: int = 1,
        rank: int = 0,
        world: int = 1,
        mentions: list[list[Mention]] | None = None,
    ) -> None:
        if not tokens:
            raise ValueError("training: expected a split with captions, got none")
        self.split, self.tokens, self.seed = split, tokens, seed
        self.batch_size = min(batch_size, len(tokens))
        if self.batch_size < world:
            got = f"a batch of {self.batch_size}"
            raise ValueError(f"batch_size: expected a caption for each of {world} processes, got {got}")
        self.neighbours, self.rank, self.world = neighbours, rank, world
        self.mentions = mentions
        self._latest = (-1, np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.tokens) // self.batch_size

    def order(self, epoch: int) -> np.ndarray:
        """(M,) captions in the order of that epoch, the same in every process."""
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(len(self.tokens))
        if self.neighbours == 1:
            return order
        image = self.split.caption_to_image[order]
        by_image = np.argsort(image, kind="stable")
        before = np.concatenate([[0], np.cumsum(np.bincount(image, minlength=len(self.split)))])[:-1]
        turn = np.empty(len(order), dtype=np.int64)  # of each caption among its image's captions, in random order
        turn[by_image] = np.arange(len(order)) - before[image[by_image]]
        run, runs = image // self.neighbours, -(-len(self.split) // self.neighbours)
        place = rng.permutation((turn.max() + 1) * runs)[turn * runs + run]
        return order[np.argsort(place, kind="stable")]

    def __getitem__(self, place: tuple[int, int]) -> Share:
        """This process's share of step ``place[1]`` of epoch ``place[0]``."""
        epoch, step = place
        if self._latest[0] != epoch:  # once an epoch, not once a step
            self._latest = (epoch, self.order(epoch))
        captions = self._latest[1][step * self.batch_size : (step + 1) * self.batch_size]
        images, owner = np.unique(self.split.caption_to_image[captions], return_inverse=True)
        image_parts, caption_parts = (np.array_split(x, self.world) for x in (images, captions))
        # A process without an image, where captions share few, encodes one all the same: gradients go through it.
        own_images = image_parts[self.rank] if len(image_parts[self.rank]) else images[:1]
        return Share(
            image_batch(self.split, own_images),
            caption_batch([self.tokens[i] for i in caption_parts[self.rank]]),
            torch.from_numpy(owner.astype(np.int64)),
            tuple(map(len, image_parts)),
            tuple(map(len, caption_parts)),
            None if self.mentions is None else mention_batch(self.mentions, caption_parts, self.rank, owner),
        )

    def loader(self, epoch: int, first: int, workers: int, pin: bool) -> Iterator[Share]:
        """The steps of an epoch from ``first`` on, read ahead by worker processes if there are any."""
        places = [(epoch, step) for step in range(first, len(self))]
        # A generator of its own: the loader's draw at the start of an epoch would shift the dropout of a resumed one.
        generator = torch.Generator().manual_seed(self.seed)
        loader = DataLoader(
            self, batch_size=None, sampler=places, num_workers=workers, pin_memory=pin, generator=generator
        )
        return iter(loader)
