"""Engine ``triton``: fused kernels of ``cmsei_fast.kernels`` on a CUDA GPU, or on the CPU in Triton's interpreter.

Numerics: sums in float32 (float64 for ``"float64"``). Where features are rounded to 16 bits, attention weights and Gram
matrices are rounded to tf32 (2⁻¹¹) where they are multiplied, which the relevance of one step mostly takes back and
several steps and the cross-level terms do not: scores moved by 1.9e-4 at most in the tests' problems, below 3e-5 in the
median. In float32 nothing is rounded. There are no atomics, so no sum depends on the order of blocks.

The interpreter (``TRITON_INTERPRET=1`` before the first use) is for tests: it shows what the kernels compute, not how
fast. Items of more rows than a kernel holds go to the engine ``eager`` on the same device; :func:`limits` says which.
So does what needs more of the GPU at hand than it has, with a warning.
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

_OLDEST = (3, 5)  # of which tl.range takes disable_licm


def interpreted() -> bool:
    """Whether Triton interprets its kernels, which is settled when they are first imported."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes")


def unavailable(device: torch.device | None = None) -> str | None:
    """Why the engine cannot run there (None: the current GPU), and what to do; None where it can. Never raises."""
    try:
        import triton
    except Exception as error:  # whatever a broken installation raises
        return f"triton cannot be imported ({type(error).__name__}: {error}); pip install triton (Linux)"
    if tuple(int(x) for x in triton.__version__.split(".")[:2]) < _OLDEST:
        return f"it needs triton {'.'.join(map(str, _OLDEST))} or newer, found {triton.__version__}"
    if (wrong := triton_design.problem()) is not None:
        return wrong
    if interpreted():
        return None
    if not torch.cuda.is_available():
        return "torch sees no CUDA GPU; TRITON_INTERPRET=1 runs the kernels in Triton's interpreter, slowly, for tests"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "it needs a GPU of compute capability 8.0 or newer"
    return None


def devices() -> tuple[str, ...]:
    """Device types the engine takes tensors on."""
    return ("cuda", "cpu") if interpreted() else ("cuda",)


def limits() -> str:
    """What the kernels leave to ``eager``, and which design computes the pair score."""
    return (
        f"eager takes images and captions of more than {MAX_ROWS} rows, "
        f"heads wider than {MAX_WIDTH} and gradients of graphs of more than {MAX_NODES} nodes; "
        f"{triton_design.describe()}"
    )


def _items(rows: Tensor, offsets: Tensor, which: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and offsets of some items (a mask), and where these rows lie among all."""
    lengths = offsets.diff()
    place = which.repeat_interleave(lengths).nonzero()[:, 0].to(rows.device)
    cut = torch.cat([offsets.new_zeros(1), lengths[which].cumsum(0)])
    return rows.index_select(0, place), cut, place


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
    numbers = scalars_on(regions.device, scalars, precision)
    large = [x.diff() > MAX_ROWS for x in (region_offsets, word_offsets)]
    if not any(bool(x.any()) for x in large):
        inputs = regions, words, region_offsets, word_offsets
        found = fitting(lambda: triton_design.pair_score(*inputs, numbers, config, precision))
        return eager.pair_score(*inputs, scalars, config, precision) if found is None else found
    out = regions.new_empty(len(large[0]), len(large[1]), dtype=accumulator(precision))
    for run, images, sentences in _rectangles(*large):
        v, v_offsets, _ = _items(regions, region_offsets, images)
        w, w_offsets, _ = _items(words, word_offsets, sentences)
        tile = (pair_score if run else eager.pair_score)(v, w, v_offsets, w_offsets, scalars, config, precision)
        i, j = (x.nonzero()[:, 0].to(out.device) for x in (images, sentences))
        out[i[:, None], j] = tile
    return out


def _rectangles(images: Tensor, captions: Tensor) -> list[tuple[bool, Tensor, Tensor]]:
    """The pairs as (whether the kernels take them, images, captions), from masks of the items that are too large."""
    parts = [(True, ~images, ~captions), (False, images, torch.ones_like(captions)), (False, ~images, captions)]
    return [x for x in parts if bool(x[1].any()) and bool(x[2].any())]


def _backward(
    inputs: tuple[Tensor, Tensor, Tensor, Tensor, Tensor], numbers: Tensor, config: list[int], precision: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by the kernels, or by eager where they do not fit this GPU; inputs are grad, features and offsets."""
    from cmsei_fast.engines import triton_pair_vjp

    found = fitting(lambda: triton_pair_vjp.pair_score_backward(*inputs, numbers, config, precision))
    return eager.pair_score_backward(*inputs, numbers.double(), config, precision) if found is None else found


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
    numbers = scalars_on(regions.device, scalars, precision)
    large = [x.diff() > MAX_ROWS for x in (region_offsets, word_offsets)]
    if not any(bool(x.any()) for x in large):
        inputs = grad, regions, words, region_offsets, word_offsets
        d_regions, d_words, d_scalars = _backward(inputs, numbers, config, precision)
        return d_regions.to(regions.dtype), d_words.to(words.dtype), d_scalars.to(scalars.device, scalars.dtype)
    wide = accumulator(precision)
    d_regions, d_words = (torch.zeros(x.shape, dtype=wide, device=x.device) for x in (regions, words))
    d_scalars = torch.zeros(len(scalars), dtype=torch.float64, device=regions.device)
    for run, images, sentences in _rectangles(*large):
        v, v_offsets, v_place = _items(regions, region_offsets, images)
        w, w_offsets, w_place = _items(words, word_offsets, sentences)
        i, j = (x.nonzero()[:, 0].to(grad.device) for x in (images, sentences))
        inputs = grad[i[:, None], j], v, w, v_offsets, w_offsets
        if run:
            part = _backward(inputs, numbers, config, precision)
        else:
            part = eager.pair_score_backward(*inputs, numbers.double(), config, precision)
        d_regions[v_place] += part[0].to(wide)
        d_words[w_place] += part[1].to(wide)
        d_scalars += part[2]
    return d_regions.to(regions.dtype), d_words.to(words.dtype), d_scalars.to(scalars.device, scalars.dtype)
