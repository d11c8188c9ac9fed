"""The Gram form of a pair's score (docs/how-it-is-fast.md) over a padded tile of images × captions.

A score is a function of S = W Vᵀ, the Gram matrices and the scalars: the width D does not occur here. Padding is masked
by ``where`` and −inf and takes no part in a sum, a maximum, a norm or a softmax.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu, one_hot

from cmsei_fast.engines.terms import EPS, FOCAL_SLACK, INTRA_TEMPERATURE, LEAK, Direction, Terms


class PaddedItems(NamedTuple):
    """What a tile needs of its images (or captions) besides S: X items, padded to n members each.

    ``mean_square`` and ``gram`` are empty where no term needs them.
    """

    square: Tensor  # (X, n) |x|² of the members, 0 in the padding
    mean_square: Tensor  # (X,) |mean x|²
    gram: Tensor  # (X, n, n) inner products of the members, 0 in the padding
    size: Tensor  # (X,) members, as a float
    mask: Tensor | None  # (X, n) True for members, None where there is no padding


def _sqrt(x: Tensor) -> Tensor:
    """√max(x, 0) with gradient 0 where x <= 0 (rounding can make a squared length negative)."""
    positive = x > 0
    return torch.where(positive, x.where(positive, 1).sqrt(), 0)


def _clamp_to_lengths(dot: Tensor, most: Tensor) -> Tensor:
    """Clamps an inner product to the product of the lengths, which only rounding makes it exceed.

    A sum of vectors that cancel out has length 0 except for rounding: without the clamp its cosine could be any number.
    """
    return most.where(dot > most, (-most).where(dot < -most, dot))


class _ClampedGradient(torch.autograd.Function):
    """The identity, with a clamped gradient: that of refined vectors of length 0 would grow to infinity.

    A finite gradient gives 0 in the product with such a vector; an infinite one would give NaN.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        most = 1e300 if grad.dtype == torch.float64 else 1e30
        return grad.clamp(-most, most)


def _fill(x: Tensor, mask: Tensor | None, value: float) -> Tensor:
    return x if mask is None else x.masked_fill(~mask, value)


def _normalise(a: Tensor, norm: str, queries: Tensor | None) -> Tensor:
    """Ã (X, Y, n, m) along the query axis; a is 0 in the padding, queries is their mask, as in :func:`attend`."""
    if norm.startswith("clipped"):
        a = leaky_relu(a, LEAK)
    if norm == "softmax":
        return _fill(a, queries, -torch.inf).softmax(-2)
    if norm.endswith("l2norm"):
        # Not vector_norm, which is many times slower along any axis but the last.
        return a / (_sqrt(a.square().sum(-2, keepdim=True)) + EPS)
    if norm.endswith("l1norm"):
        return a / (a.abs().sum(-2, keepdim=True) + EPS)
    return a


def _focal(p: Tensor, attend: str, size: Tensor) -> Tensor:
    """Keeps of p (X, Y, n, m) the weights above their mean ("focal_equal"), or above their mean weighted by √p.

    p is 0 in the padding; ``size`` (X,) counts the context items. The choice of weights is a constant in the gradient.
    """
    fixed = p.detach()
    if attend == "focal_equal":
        mean = fixed.sum(-1, keepdim=True) / size[:, None, None, None]
    else:
        root = fixed.sqrt()
        mean = (fixed * root).sum(-1, keepdim=True) / root.sum(-1, keepdim=True)
    p = p.where(fixed > (1 - FOCAL_SLACK) * mean, 0)
    return p / p.sum(-1, keepdim=True)


def attend(
    a: Tensor, options: Direction, size: Tensor, queries: Tensor | None = None, context: Tensor | None = None
) -> Tensor:
    """P (X, Y, n, m), 0 in the padding, from inner products a by softmax or one of the focal forms.

    ``size`` (X,) counts the context items; the masks of queries and context, which broadcast to
    (X, Y, n, 1) and (X, 1, 1, m), are None where nothing is padded.
    """
    logits = options.temperature * _normalise(a, options.norm, queries)
    p = _fill(logits, context, -torch.inf).softmax(-1)
    return _focal(p, options.attend, size) if options.attend.startswith("focal") else p


def _mismatch(a: Tensor, context: Tensor | None, queries: PaddedItems, options: Direction) -> Tensor:
    """The mismatches (X, Y, n) of a negative-aware direction, from inner products a (X, Y, n, m).

    A query's margin is its largest inner product less the threshold. Its mismatch is this margin if the mean margin of
    the queries, weighted by their likeness to it, is negative, else 0; this choice is a constant in the gradient.
    """
    best = a.gather(-1, _fill(a, context, -torch.inf).argmax(-1, keepdim=True))[..., 0] - options.threshold
    with torch.no_grad():
        keys = None if queries.mask is None else queries.mask[:, None]
        alike = _fill(INTRA_TEMPERATURE * queries.gram, keys, -torch.inf).softmax(-1)  # (Y, n, n)
        agreed = (alike @ best[..., None])[..., 0]
    return best.where(agreed < 0, 0)


def _aggregate(r: Tensor, options: Direction, queries: PaddedItems, guide: Tensor | None) -> Tensor:
    """(X, Y) from relevances r (X, Y, n); guide (X, Y, n), 0 in the padding, is given for "guided" alone."""
    if options.aggregate == "max":
        return _fill(r, queries.mask, -torch.inf).amax(-1)
    if options.aggregate == "lse":
        return _fill(options.lse_temperature * r, queries.mask, -torch.inf).logsumexp(-1) / options.lse_temperature
    r = _fill(r, queries.mask, 0)
    if guide is not None:
        return (guide * r).sum(-1)
    return r.sum(-1) / queries.size if options.aggregate == "mean" else r.sum(-1)


def _direction(
    a: Tensor, context: PaddedItems, queries: PaddedItems, options: Direction, guide: Tensor | None
) -> Tensor:
    """Score (X, Y) of one direction: a (X, Y, n, m) holds the inner products of queries (Y, n) and context (X, m)."""
    query_mask = None if queries.mask is None else queries.mask[:, :, None]  # (Y, n, 1)
    context_mask = None if context.mask is None else context.mask[:, None, None]  # (X, 1, 1, m)
    length_q = _sqrt(queries.square)  # (Y, n), then (X, Y, n)
    scores = []
    for step in range(options.steps):
        last = step + 1 == options.steps
        a = a if last else _ClampedGradient.apply(a)
        extra: Tensor | None = None
        if options.attend == "hard":
            choice = _fill(a, context_mask, -torch.inf).argmax(-1, keepdim=True)  # (X, Y, n, 1)
        else:
            p = attend(a, options, context.size, query_mask, context_mask)  # (X, Y, n, m)
        if options.attend == "negative_aware":
            extra = (p * a).sum(-1) + _mismatch(a, context_mask, queries, options)
            above = a > options.threshold if context_mask is None else (a > options.threshold) & context_mask
            matched = above.any(-1, keepdim=True)
            p = (options.temperature * a).masked_fill(~above & matched, -torch.inf).softmax(-1).where(matched, 0)
        if options.attend == "hard" and last:  # U is a context item: no Gram matrix is needed
            # 0 × Σ a makes the score NaN if any inner product is infinite, even one that was not chosen.
            dot = a.gather(-1, choice)[..., 0] + 0 * a.detach().sum(-1)
            square = context.square[:, None, None].expand(a.shape).gather(-1, choice)[..., 0]
        else:
            if options.attend == "hard":
                p = one_hot(choice[..., 0], a.shape[-1]).to(a.dtype)
            pg = (p.flatten(1, 2) @ context.gram).view_as(p)  # U·c for each context item
            pg = pg if last else _ClampedGradient.apply(pg)
            dot = (p * a).sum(-1)  # Q·U (X, Y, n)
            square = (p * pg).sum(-1)
        length_u = _sqrt(square)
        lengths = length_q * length_u
        if options.relevance == "cosine":
            dot = _clamp_to_lengths(dot, lengths)
            r = dot / lengths.clamp(min=EPS)
        else:  # for refined queries: each step multiplies the rounding error of vectors that cancel out
            r = dot = dot if step == 0 else _clamp_to_lengths(dot, lengths)
        r = r if extra is None else r + extra
        scores.append(_aggregate(r, options, queries, guide))
        if last:
            break
        gate_a, gate_b = options.gates[step]
        g = torch.sigmoid(gate_a * r + gate_b)
        # Q' = (of_q Q + of_u U) / its length. Both factors divide by a length, which may be 0.
        of_q, of_u = (1 - g) / length_q.clamp(min=EPS), g / length_u.clamp(min=EPS)
        dot = _clamp_to_lengths(dot, lengths)
        length_b = _sqrt((of_q * length_q) ** 2 + (of_u * length_u) ** 2 + 2 * of_q * of_u * dot)
        scale = 1 / length_b.clamp(min=EPS)
        length_q = length_b * scale
        a = (of_q * scale)[..., None] * a + (of_u * scale)[..., None] * pg
        a = _fill(_fill(a, query_mask, 0), context_mask, 0)
    return torch.stack(scores).mean(0)


def _attend_mean(total: Tensor, own: PaddedItems, other: PaddedItems, mu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Attention over own members by their cosines with ĝ, the unit mean of each item of the other side.

    ``total`` (X, Y, n) holds the inner products of own members with the sum of the other item's members. Returns
    member · ĝ (X, Y, n), the attention (X, Y, n), 0 in the padding, and |ĝ| (Y,): 1, or less for a mean near 0.
    """
    mean = _sqrt(other.mean_square)
    length = mean / mean.clamp(min=EPS)
    lengths = _sqrt(own.square)[:, None] * length[:, None]
    dot = _clamp_to_lengths(total / (mean.clamp(min=EPS) * other.size)[:, None], lengths)
    logits = mu * dot / lengths.clamp(min=EPS)
    mask = None if own.mask is None else own.mask[:, None]
    return dot, _fill(logits, mask, -torch.inf).softmax(-1), length


def _attended_cosine(dot: Tensor, attention: Tensor, length: Tensor, own: PaddedItems) -> Tensor:
    """(X, Y): cosine of the attended sum of own members and ĝ, from what :func:`_attend_mean` returns."""
    lengths = _sqrt(((attention @ own.gram) * attention).sum(-1)) * length
    return _clamp_to_lengths((attention * dot).sum(-1), lengths) / lengths.clamp(min=EPS)


def score_tile(s: Tensor, images: PaddedItems, captions: PaddedItems, terms: Terms) -> Tensor:
    """Scores (I, J) from s (I, J, L, R), word · region inner products that are 0 in the padding.

    Has no side effects and no data-dependent control flow, for autograd and ``torch.compile``.
    """
    parts = []
    guides: dict[str, Tensor] = {}
    if terms.guides_regions:
        level = _attend_mean(s.sum(-2), images, captions, terms.guide_temperature)  # (I, J, R)
        guides["i2t"] = level[1].transpose(0, 1)
        if terms.object_sentence is not None:
            parts.append(terms.object_sentence * _attended_cosine(*level, images))
    if terms.guides_words:
        level = _attend_mean(s.sum(-1).transpose(0, 1), captions, images, terms.guide_temperature)  # (J, I, L)
        guides["t2i"] = level[1].transpose(0, 1)
        if terms.word_image is not None:
            parts.append(terms.word_image * _attended_cosine(*level, captions).T)
    if terms.t2i is not None:
        guide = guides["t2i"] if terms.t2i.aggregate == "guided" else None
        parts.append(terms.t2i.weight * _direction(s, images, captions, terms.t2i, guide))
    if terms.i2t is not None:
        guide = guides["i2t"] if terms.i2t.aggregate == "guided" else None
        asked = s.permute(1, 0, 3, 2).contiguous()  # (J, I, R, L)
        parts.append(terms.i2t.weight * _direction(asked, captions, images, terms.i2t, guide).T)
    if terms.alignment is not None:
        means = [_sqrt(x.mean_square) for x in (images, captions)]
        length_v, length_t = (mean / mean.clamp(min=EPS) for mean in means)
        size_v, size_t = (mean.clamp(min=EPS) * x.size for mean, x in zip(means, (images, captions), strict=True))
        cosine = _clamp_to_lengths(s.sum((-2, -1)) / (size_v[:, None] * size_t), length_v[:, None] * length_t)
        parts.append(terms.alignment * cosine)
    return torch.stack(parts).sum(0)
