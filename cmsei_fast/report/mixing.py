"""What a region's state consists of after a layer of reasoning: how much is its own, and how much came along each edge.

Attention rollout (Abnar & Zuidema 2020, arXiv 2005.00928) assumes that a layer is half identity, half attention. Here
the layer's own parts are measured instead, as by Kobayashi et al. 2021 (arXiv 2109.07152). But for its scale and bias,
V' = LayerNorm(V + Σ over graphs of Proj(out)) is a sum over the region itself and its edges; each part counts by the
length of its vector.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..model.graph_reasoning import ReasoningLayer
from ..nn import RelationAttention

Graph = tuple[Tensor, Tensor | None]


class Mixing(NamedTuple):
    """One image, one layer; all shares of a region sum to 1.

    Args:
        kept: (R,) float64, the share that comes from the region's own state before the layer.
        edge_shares: for each graph (R, R) float64, the share that region i gathers along its edge from region j.
        attention: for each graph (R, R) float64, the mean of its attention probabilities over the heads.
    """

    kept: Tensor
    edge_shares: dict[str, Tensor]
    attention: dict[str, Tensor]


def mixing(layer: ReasoningLayer, nodes: Tensor, graphs: dict[str, Graph], predicates: Tensor | None) -> Mixing:
    """Measures how much of each region's state after a layer comes from its own state and along each of its edges.

    A part f is measured after the normalisation, as ``|γ ⊙ (f − mean f)|``: the division by the standard deviation is
    the same for all parts of a region. Two things are approximate: parts that point in opposite directions count in
    full although they cancel, and the normalisation's bias belongs to no part. An edge carries its neighbour's content
    and the relation's own value; both count for the neighbour.

    Args:
        layer: in evaluation mode.
        nodes: (1, R, D) before the layer.
        graphs: labels (1, R, R) and confidences of each.
        predicates: (P, D) vectors of the predicates, as the layer takes them.
    """
    scale = layer.norm.weight.double()

    def length(part: Tensor) -> Tensor:
        part = part.double()
        return (scale * (part - part.mean(-1, keepdim=True))).norm(dim=-1)

    kept = length(nodes[0])  # (R,)
    total = kept
    lengths, attention = {}, {}
    for kind, (labels, confidence) in graphs.items():
        module: RelationAttention = layer.attention[kind]  # type: ignore[assignment]
        parts = module.contributions(nodes, labels, confidence, layer.value(kind, predicates))
        lengths[kind] = length(parts[0])  # (R, R)
        attention[kind] = module.probabilities(nodes, labels, confidence)[0].mean(0).double().cpu()
        total = total + lengths[kind].sum(1)
    is_zero = total == 0  # a state of zeros counts as kept
    kept, total = torch.where(is_zero, 1.0, kept), torch.where(is_zero, 1.0, total)
    return Mixing((kept / total).cpu(), {kind: (x / total[:, None]).cpu() for kind, x in lengths.items()}, attention)
