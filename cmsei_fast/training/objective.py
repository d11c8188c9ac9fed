"""The loss of one step as a module that holds everything learned."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Module

from ..encoded import Encoded
from ..model import CMSEI
from .batches import Share
from .config import TrainConfig
from .distributed import gather_encoded, gather_rows
from .grounding import ends_of, grounding_loss, word_attention
from .losses import InfoNCE, hinge_loss
from .mentions import MentionBatch


class Objective(Module):
    """The loss of a model on a step's batch, whole in every process.

    Each process encodes its images and captions and scores all images with its captions; the scores are gathered, so
    that every process has the loss of the whole batch and the mean of the processes' gradients is its gradient.

    Args:
        model: what is trained.
        config: says which loss.
    """

    def __init__(self, model: CMSEI, config: TrainConfig) -> None:
        super().__init__()
        self.model = model
        self.margin = config.margin
        self.infonce = InfoNCE(config.scale, smoothing=config.smoothing) if config.loss == "infonce" else None
        self.grounding = config.grounding

    def forward(self, share: Share, sum_of_negatives: bool = False) -> Tensor:
        """The loss, a scalar; ``sum_of_negatives`` is the hinge's warm-up."""
        kept = self.model.draw_regions(share.images)
        images = gather_encoded(self.model.embed_images(share.images, kept), share.image_counts)
        captions = self.model.embed_captions(share.captions)
        scores = self.model.interact(images, captions)  # (N, M of this process)
        scores = gather_rows(scores.T, share.caption_counts).T.float()  # (N, M)
        if self.infonce is not None:
            loss: Tensor = self.infonce(scores, share.owner)
        else:
            loss = hinge_loss(scores, share.owner, self.margin, "sum" if sum_of_negatives else "hardest")
        if share.mentions is not None and any(share.mentions.counts):
            loss = loss + self.grounding * self._grounding(share, share.mentions, kept, images, captions)
        return loss

    def _grounding(
        self, share: Share, mentions: MentionBatch, kept: Tensor | None, images: Encoded, captions: Encoded
    ) -> Tensor:
        """The mean over all processes' words of relations whose both ends were not left out."""
        device, lengths = images.rows.device, share.images.lengths
        stayed = torch.ones(int(lengths.sum()), device=device) if kept is None else kept.float().to(device)
        everywhere = gather_encoded(Encoded(stayed[:, None], lengths), share.image_counts)
        attention, there = word_attention(self.model.score, images, captions, everywhere, mentions)
        subjects, objects = ends_of(mentions.relations, there)
        both = subjects.any(1) & objects.any(1)
        loss = attention.new_zeros(len(both))
        loss[both] = grounding_loss(attention[both], subjects[both], objects[both])
        values = gather_rows(torch.stack([loss, both.to(loss.dtype)], 1), mentions.counts)  # (K of all, 2)
        total, count = values.sum(0)
        return total / count.clamp(min=1)
