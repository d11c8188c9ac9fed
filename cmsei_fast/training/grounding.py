"""Words of relations are asked to look at the two ends of the relation that they speak of."""

from __future__ import annotations

import torch
from torch import Tensor

from ..encoded import Encoded, length_mask
from ..engines.gram import attend
from ..engines.terms import EPS, accumulator_of, read_terms
from ..nn import PairScore
from .mentions import MentionBatch


def grounding_loss(attention: Tensor, subjects: Tensor, objects: Tensor) -> Tensor:
    """How far attention is from lying half on a relation's subjects and half on its objects.

    KL((½, ½) ‖ (Σ of α over subjects, Σ of α over objects)) = −½ log 2 α(S) − ½ log 2 α(O): 0 where the halves are
    there, whichever of several subjects (objects) they lie on. Attention supervised by alignments is Liu et al. 2017,
    "Attention Correctness in Neural Image Captioning"; here scene graph and caption give them, nobody annotated any.

    Args:
        attention: (K, R) of K words, each row sums to 1.
        subjects: (K, R) bool; ``objects`` (K, R) bool, none of them a subject; each row has at least one of both.

    Returns:
        (K,), each >= 0.
    """
    halves = torch.stack([(attention * ends).sum(1) for ends in (subjects, objects)])  # (2, K)
    return -(2 * halves.clamp(min=EPS)).log().mean(0)


def word_attention(
    score: PairScore, regions: Encoded, words: Encoded, kept: Encoded, mentions: MentionBatch
) -> tuple[Tensor, Tensor]:
    """What the words look at in the first step (t2i), before any is left out by ``"hard"`` or focal attention.

    Args:
        score: the interaction; words ask in it.
        regions: of all images; ``words`` of the captions; differentiable.
        kept: (ΣR', 1) of all images before some regions were left out: 1 for those that stayed.
        mentions: K words.

    Returns:
        α (K, R'), 0 for regions that are not there, and which are (K, R') bool.
    """
    device = regions.rows.device
    dtype = accumulator_of(regions.rows.dtype)
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
        how = read_terms(score.scalars().to(device, dtype), score.scorer.config()).t2i
        assert how is not None
        how = how._replace(attend="softmax")
        a = (w @ v.mT).masked_fill(~(asking[:, :, None] & there[:, None]), 0)  # (K, L, R')
        size = there.sum(1).to(dtype)
        p = attend(a[:, None], how, size, asking[:, None, :, None], there[:, None, None])[:, 0]  # (K, L, R')
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
