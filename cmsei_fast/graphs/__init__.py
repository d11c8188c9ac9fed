"""Graphs over the regions of images, as labels of ordered pairs for :func:`cmsei_fast.relation_attention`."""

from .implicit import IMPLICIT_LABELS, implicit_labels
from .semantic import n_semantic_labels, semantic_labels
from .spatial import SPATIAL_LABELS, SPATIAL_NAMES, spatial_labels

__all__ = [
    "IMPLICIT_LABELS",
    "SPATIAL_LABELS",
    "SPATIAL_NAMES",
    "implicit_labels",
    "n_semantic_labels",
    "semantic_labels",
    "spatial_labels",
]
