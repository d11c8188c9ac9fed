"""The formulations that published evaluation and training code uses: one caption at a time against all images.

``scan_t2i``, ``scan_i2t`` and ``sgraf`` are the computations of SCAN (Lee et al. 2018) and SGRAF (Diao et al. 2021),
arranged as in their code and that of their successors; ``cmsei`` is CMSEI's score arranged the same way. Every vector
is D wide, every step a batched product.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

from cmsei_fast.compat.similarity import EncoderSimilarity
from cmsei_fast.scorer import PairScorer

EPS = 1e-8


def l2norm(x: Tensor, dim: int) -> Tensor:
    """x over its length along dim."""
    return x / (x.pow(2).sum(dim, keepdim=True).sqrt() + EPS)


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Cosines along the last axis."""
    product = torch.sum(x * y, -1)
    return product / (torch.norm(x, 2, -1) * torch.norm(y, 2, -1)).clamp(min=EPS)


def attend(query: Tensor, context: Tensor, temperature: float) -> Tensor:
    """Attended context (B, n, D) of queries (B, n, D) over context (B, m, D), clipped_l2norm."""
    attention = torch.bmm(context, query.transpose(1, 2))  # (B, m, n)
    attention = l2norm(leaky_relu(attention, 0.1), 2)
    attention = attention.transpose(1, 2).contiguous()  # (B, n, m)
    attention = torch.softmax(attention.flatten(0, 1) * temperature, 1).view_as(attention)
    attention = attention.transpose(1, 2).contiguous()
    return torch.bmm(context.transpose(1, 2), attention).transpose(1, 2)


def lse(similarity: Tensor, temperature: float) -> Tensor:
    """(B, 1) log-sum-exp over the queries of similarity (B, n)."""
    return similarity.mul(temperature).exp().sum(1, keepdim=True).log() / temperature


def scan_t2i(
    images: Tensor, captions: Tensor, lengths: Sequence[int], temperature: float = 9.0, lse_temperature: float = 6.0
) -> Tensor:
    """SCAN text-to-image with LSE: images (N, R, D), padded captions (M, L, D) -> (N, M)."""
    columns = []
    for caption, length in zip(captions, lengths, strict=True):
        words = caption[:length].unsqueeze(0).repeat(len(images), 1, 1)  # (N, L_j, D)
        attended = attend(words, images, temperature).contiguous()
        columns.append(lse(cosine(words, attended), lse_temperature))
    return torch.cat(columns, 1)


def scan_i2t(
    images: Tensor, captions: Tensor, lengths: Sequence[int], temperature: float = 4.0, lse_temperature: float = 5.0
) -> Tensor:
    """SCAN image-to-text with LSE: images (N, R, D), padded captions (M, L, D) -> (N, M)."""
    columns = []
    for caption, length in zip(captions, lengths, strict=True):
        words = caption[:length].unsqueeze(0).repeat(len(images), 1, 1)  # (N, L_j, D)
        attended = attend(images, words, temperature).contiguous()
        columns.append(lse(cosine(images, attended), lse_temperature))
    return torch.cat(columns, 1)


def maxsim(images: Tensor, captions: Tensor, lengths: Sequence[int]) -> Tensor:
    """Each word's largest inner product, summed over a caption's words, from one product of the padded batch."""
    largest = torch.einsum("ird,jld->ijrl", images, captions).max(2).values  # (N, M, longest)
    kept = torch.arange(captions.shape[1]) < torch.tensor(lengths)[:, None]
    return (largest * kept).sum(-1)


def unit(x: Tensor) -> Tensor:
    """x over its length along the last axis."""
    return x / torch.norm(x, 2, -1, keepdim=True).clamp(min=EPS)


def guided(query: Tensor, context: Tensor, temperature: float, guide: Tensor, gate: tuple[float, float]) -> Tensor:
    """(B,) mean over two attention steps of the relevances weighted by guide (B, n)."""
    total = query.new_zeros(len(query))
    for step in range(2):
        attended = attend(query, context, temperature)
        relevance = cosine(query, attended)  # (B, n)
        total = total + (guide * relevance).sum(1) / 2
        if step == 0:
            g = torch.sigmoid(gate[0] * relevance + gate[1]).unsqueeze(2)
            query = unit((1 - g) * unit(query) + g * unit(attended))
    return total


def cmsei(images: Tensor, captions: Tensor, lengths: Sequence[int]) -> Tensor:
    """``PairScorer.cmsei()`` in feature space: images (N, R, D), padded captions (M, L, D) -> (N, M)."""
    scorer = PairScorer.cmsei()
    assert scorer.t2i is not None
    assert scorer.i2t is not None
    image = unit(images.mean(1))  # (N, D)
    columns = []
    for caption, length in zip(captions, lengths, strict=True):
        words = caption[:length].unsqueeze(0).repeat(len(images), 1, 1)  # (N, L_j, D)
        sentence = unit(words.mean(1))  # (N, D)
        p = torch.softmax(scorer.guide_temperature * cosine(images, sentence.unsqueeze(1)), 1)  # (N, R)
        omega = torch.softmax(scorer.guide_temperature * cosine(words, image.unsqueeze(1)), 1)  # (N, L_j)
        score = guided(words, images, scorer.t2i.temperature, omega, scorer.t2i.gates[0])
        score = score + guided(images, words, scorer.i2t.temperature, p, scorer.i2t.gates[0])
        score = score + cosine((p.unsqueeze(2) * images).sum(1), sentence)
        score = score + cosine((omega.unsqueeze(2) * words).sum(1), image)
        columns.append((score + (image * sentence).sum(1)).unsqueeze(1))
    return torch.cat(columns, 1)


def sgraf(images: Tensor, captions: Tensor, lengths: Sequence[int], model: EncoderSimilarity) -> Tensor:
    """SGRAF (Diao et al. 2021) with a model's weights: images (N, R, D), padded captions (M, L, D) -> (N, M)."""
    image = model.v_global_w(images)  # (N, D)
    columns = []
    for caption, length in zip(captions, lengths, strict=True):
        words = caption[:length].unsqueeze(0).repeat(len(images), 1, 1)  # (N, L_j, D)
        sentence = model.t_global_w(words[:1])  # (1, D)
        attended = l2norm(attend(words, images, 9.0), -1)
        local = l2norm(model.sim_tranloc_w((attended - words).pow(2)), -1)  # (N, L_j, d)
        whole = l2norm(model.sim_tranglo_w((image - sentence).pow(2)), -1)
        vectors = torch.cat([whole.unsqueeze(1), local], 1)
        if model.module_name == "SGR":
            for step in model.SGR_module:
                edges = torch.bmm(step.graph_query_w(vectors), step.graph_key_w(vectors).transpose(1, 2))
                vectors = torch.relu(step.sim_graph_w(torch.bmm(torch.softmax(edges, -1), vectors)))
            vector = vectors[:, 0]
        else:
            saf = model.SAF_module
            gate = torch.sigmoid(saf.bn(saf.attn_sim_w(vectors).transpose(1, 2)))
            vector = l2norm(torch.bmm(gate / (gate.sum(-1, keepdim=True) + EPS), vectors).squeeze(1), -1)
        columns.append(torch.sigmoid(model.sim_eval_w(vector)))
    return torch.cat(columns, 1)


def hardest_hinge(scores: Tensor, margin: float = 0.2) -> Tensor:
    """Hinge losses over the hardest negative of each image and of each caption of a batch (N, N) (VSE++)."""
    match = scores.diag()
    negatives = scores.masked_fill(torch.eye(len(scores), dtype=torch.bool, device=scores.device), -torch.inf)
    return sum((margin + negatives.amax(d) - match).clamp(min=0).sum() for d in (0, 1))


def hinge(scores: Tensor, margin: float = 0.2) -> Tensor:
    """Sum of both directions' hinge losses over all negatives of a batch (N, N) whose diagonal are the matches."""
    match = scores.diag()
    cost = (margin + scores - match[:, None]).clamp(min=0) + (margin + scores - match[None, :]).clamp(min=0)
    return cost.masked_fill(torch.eye(len(scores), dtype=torch.bool, device=scores.device), 0).sum()
