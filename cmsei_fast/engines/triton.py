"""Engine ``triton``: fused kernels of ``cmsei_fast.kernels`` on a CUDA GPU, or on the CPU in Triton's interpreter.

Numerics: sums are float32 (float64 for ``"float64"``). With features of 16 bits, attention weights and Gram matrices
are rounded to tf32 (2⁻¹¹) for their products. The relevance of one step undoes most of that rounding; several steps and
the cross-level terms do not. In the tests' problems it moved scores by 1.9e-4 at most, by less than 3e-5 in the median.
In float32 nothing is rounded. There are no atomics, so no sum depends on the order of blocks.

The interpreter (``TRITON_INTERPRET=1`` before the first use) is for tests: it shows what the kernels compute, not how
fast. Items of more rows than a kernel holds go to the engine ``eager`` on the same device (:func:`limits`). So do
problems that need more resources than the GPU has, with a warning.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from cmsei_fast.engines import eager, triton_design
from cmsei_fast.engines.scalars import scalars_on
from cmsei_fast.engines.terms import accumulator
from cmsei_fast.engines.triton_launch import fitting, on_device
from cmsei_fast.engines.triton_relation import MAX_NODES, MAX_WIDTH, relation_attention, relation_attention_backward
from cmsei_fast.engines.triton_sides import MAX_ROWS

__all__ = [
    "devices",
    "interpreted",
    "limits",
    "pair_score",
    "pair_score_backward",
    "relation_attention",
    "relation_attention_backward",
    "unavailable",
]

_OLDEST = (3, 5)  # the first whose tl.range takes disable_licm


def interpreted() -> bool:
    """Whether Triton interprets its kernels, which is settled when they are first imported."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes")


def unavailable(device: torch.device | None = None) -> str | None:
    """Why the engine cannot run on the device (None: the current GPU), and what to do; None if it can. Never raises."""
    try:
        import triton
    except Exception as error:  # whatever a broken installation raises
        return f"triton cannot be imported ({type(error).__name__}: {error}); pip install triton (Linux)"
    if tuple(int(x) for x in triton.__version__.split(".")[:2]) < _OLDEST:
        return f"it needs triton {'.'.join(map(str, _OLDEST))} or newer, found {triton.__version__}"
    if (design_problem := triton_design.problem()) is not None:
        return design_problem
    if interpreted():
        return None
    if not torch.cuda.is_available():
        return "torch sees no CUDA GPU; TRITON_INTERPRET=1 runs the kernels in Triton's interpreter, slowly, for tests"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "it needs a GPU of compute capability 8.0 or newer"
    return None


def devices() -> tuple[str, ...]:
    """Types of the devices whose tensors the engine takes."""
    return ("cuda", "cpu") if interpreted() else ("cuda",)


def limits() -> str:
    """Says what the kernels leave to ``eager``, and which design computes the pair score."""
    return (
        f"eager takes images and captions of more than {MAX_ROWS} rows, "
        f"heads wider than {MAX_WIDTH} and gradients of graphs of more than {MAX_NODES} nodes; "
        f"{triton_design.describe()}"
    )


def _items(rows: Tensor, offsets: Tensor, item_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The selected items: their packed rows, their offsets, and the indices of these rows among all."""
    lengths = offsets.diff()
    row_indices = item_mask.repeat_interleave(lengths).nonzero()[:, 0].to(rows.device)
    packed_offsets = torch.cat([offsets.new_zeros(1), lengths[item_mask].cumsum(0)])
    return rows.index_select(0, row_indices), packed_offsets, row_indices


@on_device
def pair_score(
    regions: Tensor,
    words: Tensor,
    region_offsets: Tensor,
    word_offsets: Tensor,
    scalars: Tensor,
    config: list[int],
    precision: str,
) -> Tensor:
    """Scores (N, M) of packed regions (ΣR, D) and words (ΣL, D); arguments as the operator has checked them."""
    device_scalars = scalars_on(regions.device, scalars, precision)
    too_large = [x.diff() > MAX_ROWS for x in (region_offsets, word_offsets)]
    if not any(bool(x.any()) for x in too_large):
        inputs = regions, words, region_offsets, word_offsets
        kernel_scores = fitting(lambda: triton_design.pair_score(*inputs, device_scalars, config, precision))
        return eager.pair_score(*inputs, scalars, config, precision) if kernel_scores is None else kernel_scores
    scores = regions.new_empty(len(too_large[0]), len(too_large[1]), dtype=accumulator(precision))
    for fits, images, captions in _rectangles(*too_large):
        v, v_offsets, _ = _items(regions, region_offsets, images)
        w, w_offsets, _ = _items(words, word_offsets, captions)
        tile_scores = (pair_score if fits else eager.pair_score)(v, w, v_offsets, w_offsets, scalars, config, precision)
        image_index, caption_index = (x.nonzero()[:, 0].to(scores.device) for x in (images, captions))
        scores[image_index[:, None], caption_index] = tile_scores
    return scores


def _rectangles(images: Tensor, captions: Tensor) -> list[tuple[bool, Tensor, Tensor]]:
    """All pairs as rectangles (whether the kernels take them, images, captions); masks of too large items go in."""
    parts = [(True, ~images, ~captions), (False, images, torch.ones_like(captions)), (False, ~images, captions)]
    return [x for x in parts if bool(x[1].any()) and bool(x[2].any())]


def _backward(
    inputs: tuple[Tensor, Tensor, Tensor, Tensor, Tensor], device_scalars: Tensor, config: list[int], precision: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by the kernels, or by eager if they do not fit this GPU; inputs are grad, features and offsets."""
    from cmsei_fast.engines import triton_pair_vjp

    grads = fitting(lambda: triton_pair_vjp.pair_score_backward(*inputs, device_scalars, config, precision))
    return eager.pair_score_backward(*inputs, device_scalars.double(), config, precision) if grads is None else grads


@on_device
def pair_score_backward(
    grad: Tensor,
    regions: Tensor,
    words: Tensor,
    region_offsets: Tensor,
    word_offsets: Tensor,
    scalars: Tensor,
    config: list[int],
    precision: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for regions, words and scalars, in their dtypes; the inner products are computed again."""
    device_scalars = scalars_on(regions.device, scalars, precision)
    too_large = [x.diff() > MAX_ROWS for x in (region_offsets, word_offsets)]
    if not any(bool(x.any()) for x in too_large):
        inputs = grad, regions, words, region_offsets, word_offsets
        d_regions, d_words, d_scalars = _backward(inputs, device_scalars, config, precision)
        return d_regions.to(regions.dtype), d_words.to(words.dtype), d_scalars.to(scalars.device, scalars.dtype)
    acc_dtype = accumulator(precision)
    d_regions, d_words = (torch.zeros(x.shape, dtype=acc_dtype, device=x.device) for x in (regions, words))
    d_scalars = torch.zeros(len(scalars), dtype=torch.float64, device=regions.device)
    for fits, images, captions in _rectangles(*too_large):
        v, v_offsets, region_rows = _items(regions, region_offsets, images)
        w, w_offsets, word_rows = _items(words, word_offsets, captions)
        image_index, caption_index = (x.nonzero()[:, 0].to(grad.device) for x in (images, captions))
        inputs = grad[image_index[:, None], caption_index], v, w, v_offsets, w_offsets
        if fits:
            gradients = _backward(inputs, device_scalars, config, precision)
        else:
            gradients = eager.pair_score_backward(*inputs, device_scalars.double(), config, precision)
        d_regions[region_rows] += gradients[0].to(acc_dtype)
        d_words[word_rows] += gradients[1].to(acc_dtype)
        d_scalars += gradients[2]
    return d_regions.to(regions.dtype), d_words.to(words.dtype), d_scalars.to(scalars.device, scalars.dtype)
