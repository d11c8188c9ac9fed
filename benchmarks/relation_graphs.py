"""Graphs as relation attention gets them: 36 objects per image with spatial or with semantic labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.settings import REGIONS

SPATIAL_LABELS = 13  # no edge, 11 classes, self
PREDICATES = 50
RELATIONS = 25  # triplets an image
SEMANTIC_LABELS = 2 + 2 * PREDICATES  # no edge, predicates both ways, self


def spatial_labels(graphs: int, generator: torch.Generator) -> Tensor:
    """(B, R, R): two thirds of the pairs near enough for a direction (4 to 11) or overlapping (1 to 3), and self."""
    shape = (graphs, REGIONS, REGIONS)
    labels = torch.randint(1, SPATIAL_LABELS - 1, shape, generator=generator)
    labels[torch.rand(shape, generator=generator) > 2 / 3] = 0
    labels.diagonal(dim1=1, dim2=2).fill_(SPATIAL_LABELS - 1)
    return labels


def semantic_labels(graphs: int, generator: torch.Generator) -> Tensor:
    """(B, R, R): 25 random triplets an image, each with its reverse, and self."""
    labels = torch.zeros(graphs, REGIONS, REGIONS, dtype=torch.int64)
    b = torch.arange(graphs).repeat_interleave(RELATIONS)
    i, j = torch.randint(REGIONS, (2, len(b)), generator=generator)
    predicate = torch.randint(PREDICATES, (len(b),), generator=generator)
    labels[b, i, j] = 1 + predicate
    labels[b, j, i] = 1 + PREDICATES + predicate
    labels.diagonal(dim1=1, dim2=2).fill_(SEMANTIC_LABELS - 1)
    return labels


KINDS = {"spatial": (spatial_labels, SPATIAL_LABELS), "semantic": (semantic_labels, SEMANTIC_LABELS)}


@dataclass(frozen=True)
class Graphs:
    """Arguments of relation attention and what a loss sends back; q, k, v and their like (B, H, R, d)."""

    q: Tensor
    k: Tensor
    v: Tensor
    labels: Tensor
    bias: Tensor
    value: Tensor
    upstream: Tensor

    @property
    def arguments(self) -> tuple[Tensor, ...]:
        """Positional arguments of the operator."""
        return self.q, self.k, self.v, self.labels, self.bias, self.value


def graphs(kind: str, count: int, heads: int, width: int, seed: int = 0) -> Graphs:
    """Seeded graphs of one kind whose q, k and v are views of one projection, as modules have them."""
    generator = torch.Generator().manual_seed(seed)
    make, n_labels = KINDS[kind]
    qkv = torch.randn(count, REGIONS, 3, heads, width, generator=generator)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, R, d) each
    return Graphs(
        q,
        k,
        v,
        make(count, generator),
        torch.randn(n_labels, heads, generator=generator),
        torch.randn(n_labels, heads, width, generator=generator),
        torch.randn(count, heads, REGIONS, width, generator=generator),
    )
