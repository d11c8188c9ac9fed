"""The operators: one file each, with its checks, its schema, its fake, its gradient and the choice of an engine."""

from cmsei_fast.ops.pair_score import pair_score
from cmsei_fast.ops.relation_attention import relation_attention

__all__ = ["pair_score", "relation_attention"]
