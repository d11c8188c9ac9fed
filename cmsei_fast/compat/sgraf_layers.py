"""The layers of SGRAF's similarity (Diao et al. 2021): a vector of a whole side, graph reasoning, filtration.

Parameters have the names of SGRAF's own modules, so that its checkpoints load.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from ..encoded import length_mask
from ..engines.affine import Affine, product

EPS = 1e-8
_DROPOUT = 0.4

Reasoning = Callable[[Tensor], Tensor]
# Mean and variance of a batch norm's numbers, by caption.
Statistics = dict[int, tuple[Tensor, Tensor]]


class GlobalAttention(nn.Module):
    """One vector for an image or a sentence: a sum of its regions or words, weighted by how well they match their mean.

    Args:
        width: D.
        num_region: regions of every image, over which a batch norm goes; None for words, which have none.
    """

    def __init__(self, width: int, num_region: int | None = None) -> None:
        super().__init__()

        def embedding(norm: int) -> nn.Sequential:
            batch_norm = [] if num_region is None else [nn.BatchNorm1d(norm)]
            return nn.Sequential(nn.Linear(width, width), *batch_norm, nn.Tanh(), nn.Dropout(_DROPOUT))

        self.embedding_local = embedding(num_region or 0)
        self.embedding_global = embedding(width)
        self.embedding_common = nn.Sequential(nn.Linear(width, 1))

    def forward(self, local: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(n, D) unit vectors of local (n, rows, D), 0 behind the lengths (n,)."""
        sizes = local.shape[1] if lengths is None else lengths[:, None].to(local.dtype)
        vector = _apply_layers(self.embedding_global, local.sum(1) / sizes)  # (n, D)
        common = self.embedding_common[0]
        assert isinstance(common, nn.Linear)
        # The last layer's weights are multiplied with the one vector instead of every row.
        logits = _apply_layers(self.embedding_local, local) @ (vector * common.weight)[..., None] + common.bias
        if lengths is not None:
            logits = logits.masked_fill(~length_mask(lengths)[..., None], -torch.inf)
        return normalize((logits.softmax(1).mT @ local).squeeze(1), dim=-1, eps=EPS)


def _apply_layers(layers: nn.Sequential, x: Tensor) -> Tensor:
    first = layers[0]
    assert isinstance(first, nn.Linear)
    return layers[1:](product(x, first.weight, first.bias))


class GraphReasoning(nn.Module):
    """One step over the full graph of a pair's similarity vectors."""

    def __init__(self, sim_dim: int) -> None:
        super().__init__()
        self.graph_query_w = nn.Linear(sim_dim, sim_dim)
        self.graph_key_w = nn.Linear(sim_dim, sim_dim)
        self.sim_graph_w = nn.Linear(sim_dim, sim_dim)

    def layers(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """The layers of a node's query and of its new value, each (weight (d, d), bias (d,)).

        Queries and keys are one product: (W_q x + b_q)·(W_k y + b_k) is y·W_kᵀ(W_q x + b_q) but for what is the same
        for all y, and a softmax over them does not see that. The gradient of the bias b_k is therefore 0; it has one,
        because ``DistributedDataParallel`` waits for that of every parameter.
        """
        keys = self.graph_key_w.weight.T
        ask = keys @ self.graph_query_w.weight, keys @ self.graph_query_w.bias + 0 * self.graph_key_w.bias
        return ask, (self.sim_graph_w.weight, self.sim_graph_w.bias)

    def prepared(self, last: bool) -> Reasoning:
        """The step (B, k, d) → (B, k, d), or of the last step, whose first node alone is read, → (B, 1, d)."""
        ask, answer = (Affine(*layer) for layer in self.layers())

        def step(x: Tensor) -> Tensor:
            queries = ask(x[:, :1] if last else x)
            edges = (queries @ x.mT).softmax(-1)
            return answer(edges @ x).relu_()

        return step


class AttentionFiltration(nn.Module):
    """A sum of a pair's similarity vectors, weighted by a gate."""

    def __init__(self, sim_dim: int) -> None:
        super().__init__()
        self.attn_sim_w = nn.Linear(sim_dim, 1)
        self.bn = nn.BatchNorm1d(1)

    def forward(self, x: Tensor, captions: Tensor, statistics: Statistics | None) -> Tensor:
        """(I, J, d) unit vectors of x (I, J, k, d).

        In training the batch norm goes over all images and nodes of a caption; ``statistics`` gets the mean and the
        variance of each.
        """
        a = linear(x, self.attn_sim_w.weight, self.attn_sim_w.bias).squeeze(-1)  # (I, J, k)
        a = a.to(self.bn.weight.dtype)  # autocast leaves a batch norm's numbers as wide as they are
        if self.training:
            variance, mean = torch.var_mean(a, (0, 2), correction=0, keepdim=True)  # (1, J, 1)
            if statistics is not None:
                unbiased = variance.detach() * (a[:, 0].numel() / max(a[:, 0].numel() - 1, 1))
                rows = zip(mean.detach().flatten(), unbiased.flatten(), strict=True)
                statistics.update(zip(captions.tolist(), rows, strict=True))
        else:
            assert self.bn.running_mean is not None
            assert self.bn.running_var is not None
            mean, variance = self.bn.running_mean, self.bn.running_var
        a = (a - mean) * (self.bn.weight / (variance + self.bn.eps).sqrt()) + self.bn.bias
        gate = normalize(a.sigmoid(), p=1.0, dim=-1, eps=EPS)
        return normalize((gate[..., None, :] @ x).squeeze(-2), dim=-1, eps=EPS)

    def gate(self) -> tuple[Tensor, float, float]:
        """In evaluation: the gate of a vector x is sigmoid(scale · weight·x + shift), weight (d,)."""
        assert self.bn.running_mean is not None
        assert self.bn.running_var is not None
        scale = self.bn.weight / (self.bn.running_var + self.bn.eps).sqrt()
        shift = (self.attn_sim_w.bias - self.bn.running_mean) * scale + self.bn.bias
        return self.attn_sim_w.weight[0], float(scale), float(shift)

    @torch.no_grad()
    def follow(self, statistics: Statistics) -> None:
        """Updates the running mean and variance with the statistics of each caption, in the captions' order."""
        assert self.bn.running_mean is not None
        assert self.bn.running_var is not None
        assert self.bn.num_batches_tracked is not None
        for _, (mean, variance) in sorted(statistics.items()):
            self.bn.num_batches_tracked += 1
            momentum = self.bn.momentum or 1 / float(self.bn.num_batches_tracked)
            self.bn.running_mean.lerp_(mean, momentum)
            self.bn.running_var.lerp_(variance, momentum)
