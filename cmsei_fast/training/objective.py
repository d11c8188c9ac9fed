"""One step's loss as a module, so that DistributedDataParallel can wrap it."""

from __future__ import annotations

from torch import Tensor
from torch.nn import Module

from ..model import CMSEI
from .batches import Share
from .config import TrainConfig
from .distributed import gather_encoded, gather_rows
from .losses import InfoNCE, hinge_loss


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

    def forward(self, share: Share, sum_of_negatives: bool = False) -> Tensor:
        """The loss, a scalar; ``sum_of_negatives`` is the hinge's warm-up."""
        images = gather_encoded(self.model.embed_images(share.images), share.image_counts)
        scores = self.model.interact(images, self.model.embed_captions(share.captions))  # (N, M of this process)
        scores = gather_rows(scores.T, share.caption_counts).T.float()  # (N, M)
        if self.infonce is not None:
            loss: Tensor = self.infonce(scores, share.owner)
            return loss
        return hinge_loss(scores, share.owner, self.margin, "sum" if sum_of_negatives else "hardest")
