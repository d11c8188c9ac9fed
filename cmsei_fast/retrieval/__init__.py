"""Retrieval: ranks and recalls of a score matrix, and the evaluation of features in one call."""

from .evaluation import evaluate
from .metrics import DirectionMetrics, RecallMetrics, recall_metrics

__all__ = ["DirectionMetrics", "RecallMetrics", "evaluate", "recall_metrics"]
