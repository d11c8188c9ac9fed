"""The operators: one file each, with its checks, its gradient and, for the custom ones, schema, fake and engine."""

from cmsei_fast.ops.attended import attended_features, attended_scores
from cmsei_fast.ops.pair_score import pair_score
from cmsei_fast.ops.relation_attention import relation_attention

__all__ = ["attended_features", "attended_scores", "pair_score", "relation_attention"]
