"""Semantic relations: the triplets of a scene graph as labels of ordered pairs, in both directions."""

from __future__ import annotations

import torch
from torch import Tensor


def n_semantic_labels(n_predicates: int) -> int:
    """Labels of a scene graph with P predicates: none, P forwards, P backwards and self."""
    return 2 + 2 * n_predicates


def semantic_labels(
    triplets: Tensor,
    owners: Tensor,
    scores: Tensor | None,
    mask: Tensor,
    n_predicates: int,
    threshold: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Labels and confidences of each ordered pair of regions.

    A triplet (i, p, j) makes the edge i→j with label 1 + p and the edge j→i with 1 + P + p; a region has an edge to
    itself with label 1 + 2P. Of several triplets of one pair the most confident counts, the first of equals; a triplet
    in its own direction comes before one in the reverse direction. Triplets below the threshold are dropped.

    Args:
        triplets: (E, 3) integers: subject region, predicate, object region, counted within the image.
        owners: (E,) integers, the image of each triplet.
        scores: (E,) in (0, 1]; None is 1 for all.
        mask: (B, R) bool, True for regions.
        n_predicates: P.
        threshold: least confidence of an edge.

    Returns:
        Labels (B, R, R) int16 (int32 for more than it holds) and confidences (B, R, R) float32 in (0, 1], 1 where
        there is no edge.

    Raises:
        ValueError: naming the argument, for shapes that do not fit, or the first triplet of an image, a region or a
            predicate that is not there.
    """
    _check_shapes(triplets, owners, scores, mask)
    b, r = mask.shape
    device = mask.device
    owners, triplets = owners.long(), triplets.long()
    scores = torch.ones(len(owners), device=device) if scores is None else scores.float()
    _check_values(triplets, owners, mask, n_predicates)
    self_edges = torch.eye(r, dtype=torch.bool, device=device) & mask[:, :, None]  # (B, R, R)
    labels = torch.where(self_edges, 1 + 2 * n_predicates, 0).flatten()  # (B R R)
    confidence = torch.ones(b * r * r, device=device)
    keep = (scores >= threshold) & (triplets[:, 0] != triplets[:, 2])
    owners, triplets, scores = owners[keep], triplets[keep], scores[keep]
    subject, predicate, target = triplets.unbind(-1)
    # Reversed triplets are written first, so that those in their own direction replace them.
    for pair, label in (
        ((owners * r + target) * r + subject, 1 + n_predicates + predicate),
        ((owners * r + subject) * r + target, 1 + predicate),
    ):
        order = torch.argsort(scores, descending=True, stable=True)
        pair, label, score = pair[order], label[order], scores[order]
        first = _first_occurrences(pair)
        labels[pair[first]] = label[first]
        confidence[pair[first]] = score[first]
    dtype = torch.int16 if n_semantic_labels(n_predicates) <= 2**15 else torch.int32
    return labels.view(b, r, r).to(dtype), confidence.view(b, r, r)


def _check_shapes(triplets: Tensor, owners: Tensor, scores: Tensor | None, mask: Tensor) -> None:
    if mask.dim() != 2 or mask.dtype != torch.bool:
        raise ValueError(f"mask: expected a bool tensor (B, R), got {mask.dtype} of shape {tuple(mask.shape)}")
    if triplets.dim() != 2 or triplets.shape[1] != 3:
        raise ValueError(f"triplets: expected shape (E, 3), got {tuple(triplets.shape)}")
    for name, x in (("owners", owners), ("scores", scores)):
        if x is not None and tuple(x.shape) != (len(triplets),):
            raise ValueError(f"{name}: expected shape ({len(triplets)},), one per triplet, got {tuple(x.shape)}")


def _check_values(triplets: Tensor, owners: Tensor, mask: Tensor, n_predicates: int) -> None:
    """Checks that each triplet has an image, two of its regions and a predicate; else it would set another edge."""
    b, r = mask.shape
    owner_valid = (owners >= 0) & (owners < b)
    ends = triplets[:, ::2]
    regions_valid = owner_valid & ((ends >= 0) & (ends < r)).all(1)
    if b and r:
        regions_valid &= mask[owners.clamp(0, b - 1)[:, None], ends.clamp(0, r - 1)].all(1)
    predicate_valid = (triplets[:, 1] >= 0) & (triplets[:, 1] < n_predicates)
    if bool((regions_valid & predicate_valid).all()):
        return
    for good, name, expected, values in (
        (owner_valid, "owners", f"an image from 0 to {b - 1}", owners),
        (regions_valid, "triplets", "regions of its image", triplets),
        (predicate_valid, "triplets", f"a predicate from 0 to {n_predicates - 1}", triplets),
    ):
        if not bool(good.all()):
            i = int((~good).nonzero()[0])
            raise ValueError(f"{name}[{i}]: expected {expected}, got {values[i].tolist()}")


def _first_occurrences(values: Tensor) -> Tensor:
    """Positions of the first occurrence of each value, whatever order a device writes in."""
    _, inverse = torch.unique(values, return_inverse=True)
    positions = torch.arange(len(values), device=values.device)
    first = torch.full((int(inverse.max()) + 1 if len(values) else 0,), len(values), device=values.device)
    return first.scatter_reduce_(0, inverse, positions, "amin")
