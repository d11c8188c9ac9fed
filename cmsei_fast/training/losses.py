"""Losses over a batch's score matrix; an image's own captions are never its negatives.

All take the scores (N, M) of N different images with M captions, and ``owner`` (M,) int64, the row of each caption's
image.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import Module, Parameter


def _sides(scores: Tensor, owner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of the true pairs (M,), the rows of the captions' images (M, M), and which pairs are true (N, M)."""
    n, m = scores.shape
    true = torch.arange(n, device=scores.device)[:, None] == owner  # (N, M)
    return scores[owner, torch.arange(m, device=scores.device)], scores[owner], true


def hinge_loss(
    scores: Tensor, owner: Tensor, margin: float = 0.2, negatives: Literal["hardest", "sum"] = "hardest"
) -> Tensor:
    """Triplet loss in both directions, on the batch's hardest negative or summed over all (VSE++, Faghri et al. 2018).

    Args:
        scores: (N, M).
        owner: (M,) int64.
        margin: how far a negative must stay below the true pair.
        negatives: ``"hardest"`` or ``"sum"``.

    Returns:
        The mean over the captions of both directions' costs, a scalar.

    Raises:
        ValueError: for another value of ``negatives``.
    """
    if negatives not in ("hardest", "sum"):
        raise ValueError(f"negatives: expected 'hardest' or 'sum', got {negatives!r}")
    positive, of_images, true = _sides(scores, owner)
    captions = (margin + of_images - positive[:, None]).clamp(min=0).masked_fill(true[owner], 0)  # (M, M)
    images = (margin + scores - positive).clamp(min=0).masked_fill(true, 0)  # (N, M)
    if negatives == "hardest":
        return captions.amax(1).mean() + images.amax(0).mean()
    return captions.sum(1).mean() + images.sum(0).mean()


class InfoNCE(Module):
    """Cross entropy of each caption's image among all images, and of each caption among other images' captions.

    Args:
        scale: initial factor on the scores (the inverse temperature), > 0; its logarithm is learned, and it is kept
            below exp(5), about 148.
        smoothing: label smoothing, in [0, 1).

    Raises:
        ValueError: for a number out of range.
    """

    def __init__(self, scale: float = 20.0, smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 < scale < math.inf:
            raise ValueError(f"scale: expected a finite number > 0, got {scale!r}")
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing: expected a number in [0, 1), got {smoothing!r}")
        self.log_scale = Parameter(torch.tensor(float(scale)).log())
        self.smoothing = smoothing

    def forward(self, scores: Tensor, owner: Tensor) -> Tensor:
        """The mean over the captions of both directions' losses, a scalar.

        Args:
            scores: (N, M) floating.
            owner: (M,) int64, the image of each caption.
        """
        with torch.no_grad():  # the number itself: one held in the formula has no gradient and would stay there
            self.log_scale.clamp_(max=5.0)
        logits = scores * self.log_scale.exp()
        positive, of_images, true = _sides(logits, owner)
        t2i = torch.nn.functional.cross_entropy(logits.T, owner, label_smoothing=self.smoothing)
        own = torch.eye(len(owner), dtype=torch.bool, device=scores.device)
        rivals = of_images.masked_fill(true[owner] & ~own, -torch.inf)  # (M, M): caption j and all of other images
        i2t = rivals.logsumexp(1) - positive
        if self.smoothing:
            others = rivals.masked_fill(~torch.isfinite(rivals), 0).sum(1) / torch.isfinite(rivals).sum(1)
            i2t = i2t + self.smoothing * (positive - others)
        return t2i + i2t.mean()
