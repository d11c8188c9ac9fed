"""Exact and fast cross-modal scores of images and sentences: SCAN, CMSEI and their relatives.

Names are loaded on first use, so importing the package is quick and never fails.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .scorer import Attention, PairScorer
from .version import __version__

if TYPE_CHECKING:
    from . import nn as nn
    from .encoded import Encoded
    from .model import CMSEI, ModelConfig
    from .ops.attended import AttendedTile, attended_features, attended_scores
    from .ops.pair_score import pair_score
    from .ops.relation_attention import relation_attention
    from .report import explain
    from .retrieval import evaluate, recall_metrics, retrieve
    from .scoring import score_matrix

# Without nn: a star import must not replace torch's nn in a notebook. cmsei_fast.nn works all the same.
__all__ = [
    "CMSEI",
    "AttendedTile",
    "Attention",
    "Encoded",
    "ModelConfig",
    "PairScorer",
    "__version__",
    "attended_features",
    "attended_scores",
    "evaluate",
    "explain",
    "pair_score",
    "recall_metrics",
    "relation_attention",
    "retrieve",
    "score_matrix",
]

_HOME = {
    "AttendedTile": "cmsei_fast.ops.attended",
    "CMSEI": "cmsei_fast.model",
    "Encoded": "cmsei_fast.encoded",
    "ModelConfig": "cmsei_fast.model",
    "attended_features": "cmsei_fast.ops.attended",
    "attended_scores": "cmsei_fast.ops.attended",
    "evaluate": "cmsei_fast.retrieval",
    "explain": "cmsei_fast.report",
    "pair_score": "cmsei_fast.ops.pair_score",
    "recall_metrics": "cmsei_fast.retrieval",
    "relation_attention": "cmsei_fast.ops.relation_attention",
    "retrieve": "cmsei_fast.retrieval",
    "score_matrix": "cmsei_fast.scoring",
}


def __getattr__(name: str) -> Any:
    if name == "nn":
        return importlib.import_module("cmsei_fast.nn")
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "nn"})
