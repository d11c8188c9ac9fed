"""Retrieval: the best items, ranks and recalls, from features without a score matrix, or from a matrix."""

from .best import Retrieved, retrieve
from .evaluation import evaluate
from .matrix import recall_metrics
from .metrics import DirectionMetrics, RecallMetrics

__all__ = ["DirectionMetrics", "RecallMetrics", "Retrieved", "evaluate", "recall_metrics", "retrieve"]
