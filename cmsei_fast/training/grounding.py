"""A loss that asks words for relations to attend to both ends of the relation that they mention."""

from __future__ import annotations

import torch
from torch import Tensor

from ..encoded import Encoded, length_mask
from ..engines.gram import attend
from ..engines.terms import EPS, accumulator_dtype, read_terms
from ..nn import PairScore
from .mentions import MentionBatch


def grounding_loss(attention: Tensor, subjects: Tensor, objects: Tensor) -> Tensor:
    """How far attention is from lying half on a relation's subjects and half on its objects.

    KL((½, ½) ‖ (Σ of α over subjects, Σ of α over objects)) = −½ log 2 α(S) − ½ log 2 α(O): 0 if the halves are
    there, whichever of several subjects (objects) they lie on. Supervising attention by alignments is from Liu et al.
    2017, "Attention Correctness in Neural Image Captioning"; here, they come from scene graph and caption, not from
    annotation.

    Args:
        attention: (K, R) of K words, each row sums to 1.
        subjects: (K, R) bool; ``objects`` (K, R) bool, disjoint from it; each row has at least one of each.

    Returns:
        (K,), each >= 0.
    """
    halves = torch.stack([(attention * ends).sum(1) for ends in (subjects, objects)])  # (2, K)
    return -(2 * halves.clamp(min=EPS)).log().mean(0)


def word_attention(
    score: PairScore, regions: Encoded, words: Encoded, kept: Encoded, mentions: MentionBatch
) -> tuple[Tensor, Tensor]:
    """The words' attention in the first step of t2i, before ``"hard"`` or focal attention drops any of it.

    Args:
        score: the interaction, with a t2i direction.
        regions: of all images; ``words`` of the captions; differentiable.
        kept: (ΣR', 1) of all images before region dropout: 1 for the regions that stayed.
        mentions: K words.

    Returns:
        α (K, R'), 0 for regions that were dropped or do not exist, and a mask (K, R') bool of those that are there.
    """
    device = regions.rows.device
    dtype = accumulator_dtype(regions.rows.dtype)
    there, _ = kept.padded()  # (N, R', 1)
    there = there[mentions.images, :, 0] > 0  # (K, R')
    rows = (kept.rows[:, 0].cumsum(0) - 1).long().clamp(min=0)  # of each region before, its row now
    starts = kept.offsets.to(device)[:-1][mentions.images]
    places = starts[:, None] + torch.arange(there.shape[1], device=device)
    v = regions.rows[rows[places.clamp(max=len(rows) - 1)]].to(dtype)  # (K, R', D)
    lengths = words.lengths.to(device)
    asking = length_mask(lengths[mentions.captions])  # (K, L)
    places = words.offsets.to(device)[:-1][mentions.captions, None] + torch.arange(asking.shape[1], device=device)
    w = words.rows[places.clamp(max=len(words.rows) - 1)].to(dtype)  # (K, L, D)
    with torch.autocast(device.type, enabled=False):
        options = read_terms(score.scalars().to(device, dtype), score.scorer.config()).t2i
        assert options is not None
        options = options._replace(attend="softmax")
        a = (w @ v.mT).masked_fill(~(asking[:, :, None] & there[:, None]), 0)  # (K, L, R')
        size = there.sum(1).to(dtype)
        p = attend(a[:, None], options, size, asking[:, None, :, None], there[:, None, None])[:, 0]  # (K, L, R')
    return p[torch.arange(len(p), device=device), mentions.words], there


def ends_of(relations: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Subjects and objects of K words' relations, (K, R) bool each; a region that is both counts as a subject.

    Args:
        relations: (E, 3) integers: word, subject region, object region.
        there: (K, R) bool; a relation one end of which is not there is none.
    """
    word, subject, target = relations.unbind(1)
    both = there[word, subject] & there[word, target]
    word, subject, target = word[both], subject[both], target[both]
    subjects, objects = torch.zeros_like(there), torch.zeros_like(there)
    subjects[word, subject] = True
    objects[word, target] = True
    return subjects, objects & ~subjects
