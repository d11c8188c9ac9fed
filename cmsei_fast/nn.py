"""The operators as modules: a scorer with learned parameters, and a layer of relation-aware attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear, Module, Parameter

from cmsei_fast.checks import check_scorer, is_whole
from cmsei_fast.encoded import Encoded
from cmsei_fast.engines.eager_relation import attention_probabilities
from cmsei_fast.ops import pair_score, relation_attention
from cmsei_fast.scorer import FIRST_GATE, PairScorer

# exp(±20): a weight or temperature stays a finite number above 0 wherever an optimiser takes its logarithm.
_LOG_LIMIT = 20.0


class PairScore(Module):
    """Scores of all pairs, with learned weights, temperatures, gates and thresholds.

    The structure (directions, norms, aggregates, steps, terms) is the scorer's. Learning starts exactly at its numbers:
    weights and temperatures are ``initial · exp(log_scale)``, hence positive; gates and thresholds are ``initial +
    gate_shift``. Both parameters start at 0, so weight decay pulls towards the initial numbers. Terms that the scorer
    leaves out stay out, and their entries get gradient 0.

    Args:
        scorer: structure and initial numbers; None is :meth:`PairScorer.cmsei`.
        engine: ``"auto"`` or an engine's name.
        precision: as in :func:`cmsei_fast.pair_score`; None is autocast's or the features' own.

    Raises:
        TypeError: if scorer is not a :class:`PairScorer`.
    """

    def __init__(self, scorer: PairScorer | None = None, *, engine: str = "auto", precision: str | None = None) -> None:
        super().__init__()
        scorer = check_scorer(scorer)
        self._structure, self.engine, self.precision = scorer, engine, precision
        initial = torch.tensor(scorer.scalars(), dtype=torch.float64)
        self.initial: Tensor
        self.register_buffer("initial", initial)
        self.log_scale = Parameter(torch.zeros(FIRST_GATE))
        self.gate_shift = Parameter(torch.zeros(len(initial) - FIRST_GATE))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Refuses numbers of another structure of the same size, which would load and give weight to absent terms."""
        loaded, errors = state_dict.get(f"{prefix}initial"), rest[-1]
        if loaded is not None and loaded.shape == self.initial.shape and not loaded.is_meta:
            # Not from the buffer, which has no numbers yet in a module made on the meta device.
            absent = torch.tensor(self._structure.scalars()[:FIRST_GATE], device="cpu") == 0
            if not torch.equal(absent, loaded[:FIRST_GATE].cpu() == 0):
                errors.append(f"{prefix}initial: expected the numbers of a score with the terms of {self._structure}")
                return  # and keep its own
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def scalars(self) -> Tensor:
        """(n,) the current numbers in the order of ``PairScorer.scalars()``; differentiable."""
        positive, gates = self.initial[:FIRST_GATE], self.initial[FIRST_GATE:]
        scale = self.log_scale.to(positive.dtype).clamp(-_LOG_LIMIT, _LOG_LIMIT).exp()
        return torch.cat([positive * scale, gates + self.gate_shift.to(gates.dtype)])

    @property
    def scorer(self) -> PairScorer:
        """The scorer with the current numbers."""
        return self._structure.with_scalars(self.scalars().tolist())

    def forward(
        self,
        regions: Tensor | Encoded,
        words: Tensor | Encoded,
        region_offsets: Tensor | None = None,
        word_offsets: Tensor | None = None,
    ) -> Tensor:
        """Scores (N, M) of packed regions (ΣR, D) and words (ΣL, D); arguments as in :func:`cmsei_fast.pair_score`."""
        return pair_score(
            regions,
            words,
            region_offsets,
            word_offsets,
            scorer=self._structure,
            scalars=self.scalars(),
            engine=self.engine,
            precision=self.precision,
        )

    def extra_repr(self) -> str:
        """The structure, as the constructor takes it."""
        return f"{self._structure!r}, engine={self.engine!r}, precision={self.precision!r}"


class RelationAttention(Module):
    """Attention of an image's nodes along labelled edges: projections, and a bias and a value for each label.

    Residual connection and normalisation are left to the caller. The output projection has no bias, so a node without
    an edge gets 0.

    Args:
        dim: width of the nodes, a multiple of heads.
        heads: number of heads.
        n_labels: number of edge labels, including label 0 (no edge).
        engine: ``"auto"`` or an engine's name.

    Raises:
        ValueError: if a number is below 1 or dim is not a multiple of heads.
    """

    def __init__(self, dim: int, heads: int, n_labels: int, *, engine: str = "auto") -> None:
        super().__init__()
        for name, number in (("dim", dim), ("heads", heads), ("n_labels", n_labels)):
            if not is_whole(number):
                raise ValueError(f"{name}: expected an integer of at least 1, got {number!r}")
        if dim % heads:
            raise ValueError(f"dim: expected a multiple of heads = {heads}, got {dim}")
        self.dim, self.heads, self.n_labels, self.engine = dim, heads, n_labels, engine
        self.query, self.key, self.content = (Linear(dim, dim) for _ in range(3))
        self.out = Linear(dim, dim, bias=False)
        # Random, so that each head prefers other labels: equal heads would all see the same mixture.
        self.label_bias = Parameter(torch.randn(n_labels, heads))
        self.label_value = Parameter(torch.randn(n_labels, heads, dim // heads) * 0.02)

    def forward(
        self, nodes: Tensor, labels: Tensor, confidence: Tensor | None = None, label_value: Tensor | None = None
    ) -> Tensor:
        """What the nodes gather from their neighbours.

        Args:
            nodes: (B, R, dim); padding is nodes without edges.
            labels: (B, R, R) integers below n_labels, 0 for no edge.
            confidence: (B, R, R) in (0, 1] on every edge; None is 1.
            label_value: (n_labels, heads, dim / heads) to use instead of the layer's own.

        Returns:
            (B, R, dim) in the projections' dtype.

        Raises:
            TypeError, ValueError: for nodes of a wrong shape, and as :func:`cmsei_fast.relation_attention` does.
        """
        q, k, v = (self._heads(project, nodes) for project in (self.query, self.key, self.content))
        value = self.label_value if label_value is None else label_value
        gathered = relation_attention(q, k, v, labels, self.label_bias, value, confidence, engine=self.engine)
        return self.out(gathered.transpose(1, 2).flatten(2))

    def probabilities(self, nodes: Tensor, labels: Tensor, confidence: Tensor | None = None) -> Tensor:
        """P (B, H, R, R): how much node i attends to node j, in each head; arguments as in :meth:`forward`.

        A row sums to 1, or to 0 for a node without an edge. This is plain torch, for inspection; :meth:`forward` never
        forms P.
        """
        q, k = (self._heads(project, nodes) for project in (self.query, self.key))
        return attention_probabilities(q, k, labels, self.label_bias, confidence)

    def contributions(
        self, nodes: Tensor, labels: Tensor, confidence: Tensor | None = None, label_value: Tensor | None = None
    ) -> Tensor:
        """(B, R, R, dim): what node i gathers along its edge from node j; arguments as in :meth:`forward`.

        The sum over j is the result of :meth:`forward`. Like :meth:`probabilities`, it is plain torch, for inspection.
        """
        value = self.label_value if label_value is None else label_value
        content = self._heads(self.content, nodes).transpose(1, 2)  # (B, R, H, d)
        along = self.probabilities(nodes, labels, confidence).permute(0, 2, 3, 1)  # (B, R, R, H)
        carried = along[..., None] * (content[:, None] + value[labels.long()])  # (B, R, R, H, d)
        out: Tensor = self.out(carried.flatten(3))
        return out

    def _heads(self, project: Linear, nodes: Tensor) -> Tensor:
        """(B, H, R, d).

        Raises:
            ValueError: for nodes of another shape than (B, R, dim).
        """
        if nodes.dim() != 3 or nodes.shape[-1] != self.dim:
            raise ValueError(f"nodes: expected shape (B, R, {self.dim}), got {tuple(nodes.shape)}")
        return project(nodes).unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return f"dim={self.dim}, heads={self.heads}, n_labels={self.n_labels}, engine={self.engine!r}"
