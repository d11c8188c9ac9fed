"""SGRAF's similarity on the CPU engine: calls the compiled kernels of ``csrc/`` on the tensors' memory.

Numerics: float32 throughout (float64 for float64); results do not depend on the number of threads.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["SimilarityWeights", "similarity"]

Layer = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class SimilarityWeights:
    """The weights of SGRAF's similarity head, all of one dtype on the CPU.

    Args:
        local, whole: (weight (d, D), bias (d,)) of the similarity vectors of words and of the sentence.
        evaluate: (weight (d,), bias) of the score.
        steps: of graph reasoning: the layers before and after the attention of each, (weight (d, d), bias (d,)).
        gate: without steps, attention filtration's (weight (d,), scale, shift): sigmoid(scale · weight·x + shift).
        temperature: of the attention over clipped_l2norm.
        rounded: round squared differences to bfloat16; float32 only, with local and whole already rounded to bfloat16.
    """

    local: Layer
    whole: Layer
    evaluate: tuple[Tensor, float]
    steps: list[tuple[Layer, Layer]] = field(default_factory=list)
    gate: tuple[Tensor, float, float] | None = None
    temperature: float = 9.0
    rounded: bool = False


def similarity(
    images: Tensor,
    words: Tensor,
    lengths: Tensor,
    image_vectors: Tensor,
    sentence_vectors: Tensor,
    weights: SimilarityWeights,
) -> Tensor:
    """(N, M) scores of images (N, R, D) with captions of packed words (ΣL, D), lengths (M,) int64 on the CPU.

    ``image_vectors`` (N, D) and ``sentence_vectors`` (M, D) are of whole images and sentences; all are of one dtype,
    float32 or float64, as the caller has checked. No gradient is recorded.
    """
    from .native import current_isa

    dtype = images.dtype
    out = torch.empty(len(images), len(lengths), dtype=dtype, device="cpu")
    if out.numel() == 0:
        return out
    kept: list[Tensor] = []  # alive until the call is over

    def address(x: Tensor) -> int:
        kept.append(x.detach().to(dtype).contiguous().resolve_neg())
        return kept[-1].data_ptr()

    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).contiguous()
    _, regions, depth = images.shape
    layers = [weights.local, weights.whole, *(layer for step in weights.steps for layer in step)]
    gate, scale, shift = weights.gate or (None, 0.0, 0.0)
    _function(dtype)(
        [len(images), regions, depth, len(weights.local[1]), len(lengths)],
        [address(images), address(words), offsets.data_ptr(), address(image_vectors), address(sentence_vectors)],
        [(address(weight), address(bias)) for weight, bias in layers],
        [0 if gate is None else address(gate), address(weights.evaluate[0])],
        [weights.temperature, scale, shift, weights.evaluate[1]],
        weights.rounded,
        out.data_ptr(),
        torch.get_num_threads(),
        current_isa(),
    )
    return out


def _function(dtype: torch.dtype) -> Any:
    module = importlib.import_module("cmsei_fast._native")
    return module.similarity_f64 if dtype == torch.float64 else module.similarity_f32
