"""The definition: both operators written literally, in feature space (docs/scores.md has the formulas of the options).

It computes one pair, one image and one head at a time, in float64 with ``precision="float64"``; autograd
differentiates it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

from cmsei_fast.engines.recording import recording
from cmsei_fast.engines.terms import (
    EPS,
    FOCAL_SLACK,
    INTRA_TEMPERATURE,
    LEAK,
    Direction,
    Terms,
    accumulator_dtype,
    read_terms,
    rounded,
)


def unavailable() -> str | None:
    """None: torch is all it needs."""
    return None


def length(x: Tensor) -> Tensor:
    """|x| over the last axis; its gradient at 0 is 0."""
    return torch.linalg.vector_norm(x, dim=-1)


def unit(x: Tensor) -> Tensor:
    """x / max(|x|, 1e-8) over the last axis."""
    return x / length(x).clamp(min=EPS)[..., None]


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """x·y / max(|x| |y|, 1e-8) over the last axis."""
    return (x * y).sum(-1) / (length(x) * length(y)).clamp(min=EPS)


def normalise(a: Tensor, norm: str) -> Tensor:
    """Ã (n, m): A (n, m) normalised along the query axis, for each context item."""
    if norm.startswith("clipped"):
        a = leaky_relu(a, LEAK)
    if norm == "softmax":
        return a.softmax(0)
    if norm.endswith("l2norm"):
        return a / (torch.linalg.vector_norm(a, dim=0) + EPS)
    if norm.endswith("l1norm"):
        return a / (a.abs().sum(0) + EPS)
    return a


def attend(a: Tensor, options: Direction) -> Tensor:
    """P (n, m) from inner products a (n, m).

    Which context items ``"hard"`` and the focal forms keep is a constant in the gradient.
    """
    if options.attend == "hard":
        return torch.nn.functional.one_hot(a.argmax(1), a.shape[1]).to(a.dtype)
    p = (options.temperature * normalise(a, options.norm)).softmax(1)
    if not options.attend.startswith("focal"):
        return p
    # Kept where Σ_i (p_j − p_i) g_i > 0 with confidences g of 1 or √p: where p_j is above the mean weighted by g.
    g = torch.ones_like(p) if options.attend == "focal_equal" else p.sqrt()
    mean = (p * g).sum(1, keepdim=True) / g.sum(1, keepdim=True)
    kept = p > (1 - FOCAL_SLACK) * mean
    return p * kept / (p * kept).sum(1, keepdim=True)


def negative_aware(q: Tensor, c: Tensor, a: Tensor, p: Tensor, options: Direction) -> Tensor:
    """NAAF's relevances (n,) of queries q (n, D) to c (m, D), from inner products a (n, m) and their softmax p (n, m).

    The sum of three parts: the cosine with the vector attended to above the threshold; the inner product with the
    vector attended to by p; and the mismatch. A query's margin is its largest inner product less the threshold, and its
    mismatch is this margin if the mean margin of the queries, weighted by their likeness to it, is negative, else 0.
    Both masks are constants in the gradient.
    """
    above = a > options.threshold
    weights = torch.where(above, (options.temperature * (a - a.amax(1, keepdim=True).detach())).exp(), 0)
    matched = cosine(q, weights @ c / weights.sum(1, keepdim=True).clamp(min=1))  # the largest weight is 1
    best = a.gather(1, a.argmax(1, keepdim=True))[:, 0] - options.threshold
    agreed = (INTRA_TEMPERATURE * (q @ q.T)).softmax(1) @ best  # (n,)
    return matched + (p * a).sum(1) + torch.where(agreed < 0, best, 0)


def aggregate(r: Tensor, options: Direction, guide: Tensor) -> Tensor:
    """One number from the relevances r (n,) of the queries; guide (n,) is their cross-level attention, p or ω."""
    if options.aggregate == "mean":
        return r.mean()
    if options.aggregate == "sum":
        return r.sum()
    if options.aggregate == "max":
        return r.amax()
    if options.aggregate == "lse":
        return (options.lse_temperature * r).logsumexp(0) / options.lse_temperature
    return (guide * r).sum()


class Step(NamedTuple):
    """What one attention step of a direction computes."""

    attention: Tensor  # P (n, m), each row sums to 1; in a negative-aware direction it is the plain softmax
    relevance: Tensor  # r (n,)
    aggregated: Tensor  # ()
    gate: Tensor | None  # g (n,) of the refinement that follows, None after the last step


def attention_steps(q: Tensor, c: Tensor, options: Direction, guide: Tensor) -> list[Step]:
    """All steps of queries q (n, D) that attend to a context c (m, D)."""
    steps = []
    for step in range(options.steps):
        a = q @ c.T  # (n, m)
        p = attend(a, options)  # (n, m)
        u = p @ c  # (n, D)
        if options.attend == "negative_aware":
            r = negative_aware(q, c, a, p, options)  # (n,)
        else:
            r = cosine(q, u) if options.relevance == "cosine" else (q * u).sum(1)  # (n,)
        gate = None
        if step + 1 < options.steps:
            gate_a, gate_b = options.gates[step]
            gate = torch.sigmoid(gate_a * r + gate_b)  # (n,)
            q = unit((1 - gate)[:, None] * unit(q) + gate[:, None] * unit(u))
        steps.append(Step(p, r, aggregate(r, options, guide), gate))
    return steps


def direction(q: Tensor, c: Tensor, options: Direction, guide: Tensor) -> Tensor:
    """S_t2i or S_i2t of queries q (n, D) and their context c (m, D)."""
    return torch.stack([step.aggregated for step in attention_steps(q, c, options, guide)]).mean()


class Levels(NamedTuple):
    """What the cross-level terms are made of."""

    image: Tensor  # ĝ_v (D,)
    sentence: Tensor  # ĝ_t (D,)
    p: Tensor  # (R,) object–sentence attention
    omega: Tensor  # (L,) word–image attention


def cross_levels(v: Tensor, w: Tensor, temperature: Tensor) -> Levels:
    """Means and attention of one image, regions v (R, D), and one sentence, words w (L, D)."""
    image, sentence = unit(v.mean(0)), unit(w.mean(0))
    p = (temperature * cosine(v, sentence)).softmax(0)
    omega = (temperature * cosine(w, image)).softmax(0)
    return Levels(image, sentence, p, omega)


def weighted_terms(v: Tensor, w: Tensor, terms: Terms) -> dict[str, tuple[Tensor, Tensor]]:
    """Weight and value of each term of v (R, D) and w (L, D) that has a weight; S is the sum of their products."""
    at = cross_levels(v, w, terms.guide_temperature)
    out = {}
    if terms.t2i is not None:
        out["t2i"] = terms.t2i.weight, direction(w, v, terms.t2i, at.omega)
    if terms.i2t is not None:
        out["i2t"] = terms.i2t.weight, direction(v, w, terms.i2t, at.p)
    if terms.object_sentence is not None:
        out["object_sentence"] = terms.object_sentence, cosine(at.p @ v, at.sentence)
    if terms.word_image is not None:
        out["word_image"] = terms.word_image, cosine(at.omega @ w, at.image)
    if terms.alignment is not None:
        out["alignment"] = terms.alignment, (at.image * at.sentence).sum()
    return out


def score(v: Tensor, w: Tensor, terms: Terms) -> Tensor:
    """S of one image, regions v (R, D), and one sentence, words w (L, D)."""
    return sum((weight * value for weight, value in weighted_terms(v, w, terms).values()), start=v.new_zeros(()))


def pair_score(
    regions: Tensor,
    words: Tensor,
    region_offsets: Tensor,
    word_offsets: Tensor,
    scalars: Tensor,
    config: list[int],
    precision: str,
) -> Tensor:
    """Scores (N, M) of packed regions (ΣR, D) and words (ΣL, D)."""
    regions, words = rounded(regions, precision), rounded(words, precision)
    terms = read_terms(scalars.to(regions.device, regions.dtype), config)
    images = regions.split(region_offsets.diff().tolist())
    sentences = words.split(word_offsets.diff().tolist())
    return torch.stack([torch.stack([score(v, w, terms) for w in sentences]) for v in images])


def pair_score_backward(
    grad: Tensor,
    regions: Tensor,
    words: Tensor,
    region_offsets: Tensor,
    word_offsets: Tensor,
    scalars: Tensor,
    config: list[int],
    precision: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for regions, words and scalars: autograd over the forward, taken at the rounded features."""
    inputs = (rounded(regions, precision), rounded(words, precision), scalars)
    with recording():
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        out = pair_score(leaves[0], leaves[1], region_offsets, word_offsets, leaves[2], config, precision)
        d_regions, d_words, d_scalars = torch.autograd.grad(out, leaves, grad)
    return d_regions.to(regions.dtype), d_words.to(words.dtype), d_scalars


def _attend(
    q: Tensor, k: Tensor, v: Tensor, labels: Tensor, bias: Tensor | None, value: Tensor | None, conf: Tensor | None
) -> Tensor:
    """One image, one head: q, k, v (R, d), labels and conf (R, R), bias (n_labels,), value (n_labels, d)."""
    rows = []
    for i in range(len(q)):
        j = labels[i].nonzero()[:, 0]  # the nodes that i has an edge to
        if len(j) == 0:
            rows.append(torch.zeros_like(v[i]))
            continue
        label = labels[i, j]
        logit = k[j] @ q[i] / q.shape[-1] ** 0.5
        if bias is not None:
            logit = logit + bias[label]
        if conf is not None:
            logit = logit + conf[i, j].log()
        carried = v[j] if value is None else v[j] + value[label]
        rows.append(logit.softmax(0) @ carried)
    return torch.stack(rows)


def relation_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    labels: Tensor,
    bias: Tensor | None = None,
    value: Tensor | None = None,
    confidence: Tensor | None = None,
) -> Tensor:
    """out (B, H, R, d) in q's dtype; arithmetic in float32, in float64 for float64."""
    dtype = q.dtype
    if 0 in q.shape[:3]:
        return torch.zeros_like(q, memory_format=torch.contiguous_format)
    wide = accumulator_dtype(dtype)
    q, k, v = q.to(wide), k.to(wide), v.to(wide)
    bias, value, confidence = (None if x is None else x.to(wide) for x in (bias, value, confidence))
    labels = labels.long()
    images = []
    for b in range(q.shape[0]):
        conf = None if confidence is None else confidence[b]
        heads = []
        for h in range(q.shape[1]):
            own_bias = None if bias is None else bias[:, h]
            own_value = None if value is None else value[:, h]
            heads.append(_attend(q[b, h], k[b, h], v[b, h], labels[b], own_bias, own_value, conf))
        images.append(torch.stack(heads))
    return torch.stack(images).to(dtype)


def relation_attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    labels: Tensor,
    bias: Tensor | None = None,
    value: Tensor | None = None,
    confidence: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """Gradients for q, k, v, bias, value and confidence (None for those not given): autograd over the forward."""
    wide = accumulator_dtype(q.dtype)
    inputs = {"q": q, "k": k, "v": v, "bias": bias, "value": value, "confidence": confidence}
    with recording():
        leaves = {n: x.detach().to(wide, copy=True).requires_grad_() for n, x in inputs.items() if x is not None}
        out = relation_attention(labels=labels, **leaves)
        if not out.requires_grad:  # no edge anywhere
            out = out + 0 * leaves["q"]
        found = torch.autograd.grad(out, list(leaves.values()), grad.to(wide), materialize_grads=True)
    grads = dict(zip(leaves, found, strict=True))
    return tuple(None if x is None else grads[n].to(x.dtype).contiguous() for n, x in inputs.items())
