"""Regions to the joint space: precomputed features, object labels and box geometry, each if it is known."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Linear, Module
from torch.nn.functional import embedding

from ..data.batches import ImageBatch, require_part
from ..data.vocabulary import Vocabulary
from .config import ModelConfig
from .dropout import Dropout
from .words import WordEmbedding, name_tokens

GEOMETRY = 7


class RegionEncoder(Module):
    """Regions (ΣR, D) as the sum of their projected features, labels and boxes, as far as the model uses these.

    Args:
        config: ``feature_width``, ``object_names`` and ``boxes`` say what regions have.
        vocabulary: of the embedding that gives labels their vectors.
    """

    def __init__(self, config: ModelConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.labelled = bool(config.object_names)
        self.features = Linear(config.feature_width, config.width) if config.feature_width else None
        self.geometry = Linear(GEOMETRY, config.width) if config.boxes else None
        if self.geometry is not None:  # starts small beside the unit vectors of features and labels
            torch.nn.init.normal_(self.geometry.weight, std=0.1 * config.width**-0.5)
            torch.nn.init.zeros_(self.geometry.bias)
        self.name_tokens: Tensor
        self.register_buffer("name_tokens", name_tokens(config.object_names, vocabulary), persistent=False)
        self.dropout = Dropout(config.dropout)

    def forward(self, batch: ImageBatch, words: WordEmbedding) -> Tensor:
        """Regions (ΣR, D) of the images; ``words`` gives labels their vectors.

        Raises:
            ValueError: if the batch lacks what the model is built on, or has features of another width.
        """
        out: Tensor | None = None
        if self.features is not None:
            rows = require_part("features", batch.features)
            if rows.shape[1] != (width := self.features.in_features):
                raise ValueError(f"features: expected width {width} (the model is built on it), got {rows.shape[1]}")
            out = _add(out, self.features(self.dropout(rows.to(self.features.weight))))
        if self.labelled:
            labels = require_part("labels", batch.labels)
            vectors = words.names(self.name_tokens)  # (n_objects, word_width)
            vectors = torch.cat([vectors, vectors.new_zeros(1, vectors.shape[1])])  # the last: an unknown object, -1
            out = _add(out, _project_labels(words, self.dropout(vectors), labels % len(vectors)))
        if self.geometry is not None:
            geometry = box_geometry(
                require_part("boxes", batch.boxes), require_part("sizes", batch.sizes), batch.lengths
            )
            out = _add(out, self.geometry(geometry.to(self.geometry.weight)))
        assert out is not None
        return out


def box_geometry(boxes: Tensor, sizes: Tensor, lengths: Tensor) -> Tensor:
    """(ΣR, 7): x1, y1, x2, y2, width and height of the boxes as parts of the image's sides, and the area's part.

    Args:
        boxes: (ΣR, 4) xyxy pixels; sizes: (B, 2) pixels; lengths: (B,) regions of each image, on the CPU.
    """
    side = sizes.repeat_interleave(lengths.to(sizes.device), 0, output_size=len(boxes))  # (ΣR, 2)
    corners = boxes / side.repeat(1, 2)
    extent = corners[:, 2:] - corners[:, :2]
    return torch.cat([corners, extent, extent.prod(1, keepdim=True)], 1)


def _project_labels(words: WordEmbedding, table: Tensor, numbers: Tensor) -> Tensor:
    """(n, D) projections of the rows numbers (n,) of a table (T, word_width); it projects whichever has fewer rows."""
    if len(table) < len(numbers):
        return embedding(numbers, words.project(table))
    projected: Tensor = words.project(embedding(numbers, table))
    return projected


def _add(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a + b
