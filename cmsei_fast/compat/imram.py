"""IMRAM's functions (Chen et al. 2020), as in its evaluation: all steps, with the trained memories between them.

    from cmsei_fast.compat.imram import i2t, shard_xattn, t2i

``shard_xattn`` reads ``model_mode`` (``full_IMRAM``, ``text_IMRAM``, ``image_IMRAM``), ``iteration_step``,
``raw_feature_norm``, ``lambda_softmax`` and ``no_IMRAM_norm`` of ``opt``. ``i2t`` and ``t2i`` are those of
:mod:`cmsei_fast.compat.scan`.

A memory is g ⊙ q + (1 − g) ⊙ tanh(L [q; a] + b), g = sigmoid(G [q; a] + c), of a query q and what it attended to,
a = P C. Both layers are sums, L [q; a] = L₁ q + P (C L₂ᵀ), of which the first step's L₁ q depends on the query alone
and C L₂ᵀ on the context alone: a pair costs D² only from the second memory on. The relevance cos(q₁, a) needs no a
either, as |a|² = P C Cᵀ Pᵀ.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from .. import checks
from ..devices import process_device
from ..engines.gram import attend
from ..engines.terms import EPS, Direction
from ..ops.attended import read_direction
from ..packing import as_tensor
from ..scorer import Attention
from . import options
from .scan import i2t, t2i
from .scores import check_finite, check_padded
from .wrappers import unwrapped

__all__ = ["i2t", "shard_xattn", "t2i"]

_MODES = {"full_IMRAM": "t2i i2t", "text_IMRAM": "t2i", "image_IMRAM": "i2t"}
# Images per tile, and how many numbers the states of its queries may have.
_TILE_IMAGES = {"cpu": 32, "other": 128}
_TILE_NUMBERS = {"cpu": 2**21, "other": 2**26}


class Memory(NamedTuple):
    """The two layers of one direction's memory, (D, D) each of the query and of what it attended to, and (D,)."""

    query: tuple[Tensor, Tensor]
    attended: tuple[Tensor, Tensor]
    bias: tuple[Tensor, Tensor]

    @classmethod
    def from_model(cls, model: Any, direction: str, width: int, device: torch.device) -> Memory:
        """The memory of a model whose ``linear_…`` and ``gate_…`` are layers from 2 D to D, the width of the features.

        Raises:
            TypeError: if the model has no such layers.
            ValueError: if they have another width.
        """
        layers: list[Any] = [getattr(model, f"{kind}_{direction}", None) for kind in ("linear", "gate")]
        if not all(isinstance(layer, nn.Linear) and layer.in_features == 2 * layer.out_features for layer in layers):
            raise TypeError(f"model: expected IMRAM's, with linear_{direction} and gate_{direction}, got another")
        if len(layers[0].bias) != width:
            raise ValueError(f"model: expected memories of width {width}, as images, got {len(layers[0].bias)}")
        weights = [layer.weight.detach().to(device, torch.float32).chunk(2, 1) for layer in layers]
        bias = [layer.bias.detach().to(device, torch.float32) for layer in layers]
        return cls((weights[0][0], weights[1][0]), (weights[0][1], weights[1][1]), (bias[0], bias[1]))

    def project(self, rows: Tensor, is_query: bool) -> Projected:
        """Items (n, r, D), with both layers applied to them as queries or as context of this direction."""
        if is_query:
            return Projected(rows, [linear(rows, *layer) for layer in zip(self.query, self.bias, strict=True)])
        return Projected(rows, [linear(rows, weight) for weight in self.attended])


class Projected(NamedTuple):
    """Items with the same number of rows, and the parts of both layers that depend on them alone."""

    rows: Tensor  # (n, r, D)
    parts: list[Tensor]  # of the linear layer and of the gate, both (n, r, D)


@torch.no_grad()
def shard_xattn(
    model: Any,
    images_fc: Any,
    images: Any,
    caption_ht: Any,
    captions: Any,
    caplens: Any,
    opt: Any,
    shard_size: int = 128,
    *,
    device: str | None = None,
) -> np.ndarray:
    """(n_image, n_caption) float64 array of the sums of all steps' scores, as IMRAM's evaluation makes them.

    Args:
        model: IMRAM's model, whose memories are read; it is not called.
        images_fc, caption_ht: not read, as in the original.
        images: (n_image, n_regions, d) array or tensor, each image once.
        captions: (n_caption, max_n_word, d), likewise.
        caplens: (n_caption,) words of each caption.
        opt: see the module.
        shard_size: ignored.
        device: where to compute; None is the GPU if there is one, as in the original, else the CPU.

    Raises:
        AttributeError, TypeError, ValueError: naming the option or argument, what was expected and what came.
    """
    model = unwrapped(model)
    directions = options.choice(opt, "model_mode", _MODES).split()
    steps = options.option(opt, "iteration_step")
    if not checks.is_whole(steps):
        raise ValueError(f"opt.iteration_step: expected an integer >= 1, got {steps!r}")
    unit = not options.option(opt, "no_IMRAM_norm")
    attention = Attention(
        temperature=options.positive(opt, "lambda_softmax"),
        norm=options.choice(opt, "raw_feature_norm", options.NORMS_OF),
    )
    for name, x in (("images", images), ("captions", captions)):
        check_padded(name, x)
    if images.shape[2] != captions.shape[2]:
        raise ValueError(f"captions: expected width {images.shape[2]} (as images), got {captions.shape[2]}")
    if caplens is None:
        raise TypeError("caplens: expected the number of words of each caption, got None")
    lengths = checks.check_lengths("caplens", caplens, "caption", tuple(captions.shape))
    assert lengths is not None
    compute_device = process_device(device)
    attention_terms = read_direction(attention, torch.float32, compute_device)
    memories = {name: Memory.from_model(model, name, images.shape[2], compute_device) for name in directions}
    out = np.zeros((len(images), len(captions)))
    for image_slice in _slices(len(images), _TILE_IMAGES[_device_kind(compute_device)]):
        image_rows = as_tensor(images[image_slice]).to(compute_device, torch.float32)  # (I, R, D)
        regions = {name: memory.project(image_rows, name == "i2t") for name, memory in memories.items()}
        for indices, rows in _caption_tiles(captions, lengths, image_rows):
            for name, memory in memories.items():
                words = memory.project(rows, name == "t2i")
                if name == "t2i":
                    tile_scores = _scores(words, regions[name], memory, attention_terms, steps, unit)
                else:
                    tile_scores = _scores(regions[name], words, memory, attention_terms, steps, unit).T
                out[image_slice, indices] += tile_scores.double().cpu().numpy()
    check_finite(out, ("images", "captions"))
    return out


def _device_kind(device: torch.device) -> str:
    return "cpu" if device.type == "cpu" else "other"


def _slices(count: int, step: int) -> Iterator[slice]:
    return (slice(first, min(first + step, count)) for first in range(0, count, step))


def _caption_tiles(captions: Any, lengths: np.ndarray, regions: Tensor) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Indices (J,) and words (J, n, D) of captions of one length, as many as the states of a tile may have."""
    max_rows = _TILE_NUMBERS[_device_kind(regions.device)] // (regions.shape[0] * regions.shape[2])
    for n in np.unique(lengths):
        group = np.flatnonzero(lengths == n)
        for part in _slices(len(group), max(1, max_rows // max(int(n), regions.shape[1]))):
            yield group[part], as_tensor(captions[group[part], : int(n)]).to(regions.device, torch.float32)


def _scores(
    queries: Projected,
    context: Projected,
    memory: Memory,
    attention_terms: Direction,
    steps: int,
    normalize_states: bool,
) -> Tensor:
    """Scores (X, Y), summed over the steps, of X context items (X, m, D) with Y items of queries (Y, n, D)."""
    (y, n, _), (x, m, _) = queries.rows.shape, context.rows.shape
    rows = queries.rows.flatten(0, 1)
    first_products = (context.rows.flatten(0, 1) @ rows.T).view(x, m, y * n).transpose(1, 2).contiguous()  # (X, Y n, m)
    gram = context.rows @ context.rows.transpose(1, 2)  # (X, m, m)
    query_lengths, count = rows.norm(dim=1), first_products.new_full((x,), m)
    total = first_products.new_zeros(x, y)
    state, products = rows[None], first_products  # (1 or X, Y n, D), (X, Y n, m)
    for step in range(steps):
        p = attend(products.view(x, y, n, m), attention_terms, count).flatten(1, 2)  # (X, Y n, m)
        square = ((p @ gram) * p).sum(-1).clamp(min=0)
        relevance = (p * first_products).sum(-1) / (query_lengths * square.sqrt()).clamp(min=EPS)
        total += relevance.view(x, y, n).mean(2)
        if step + 1 == steps:
            break
        query_parts = [part.flatten(0, 1).expand(x, -1, -1) for part in queries.parts]
        if step > 0:
            query_parts = [linear(state, *layer) for layer in zip(memory.query, memory.bias, strict=True)]
        new, gate = (
            torch.baddbmm(query_part, p, context_part)
            for query_part, context_part in zip(query_parts, context.parts, strict=True)
        )
        state = torch.lerp(new.tanh_(), state.expand_as(new), gate.sigmoid_())  # (X, Y n, D)
        if normalize_states:
            state /= state.norm(dim=-1, keepdim=True) + EPS
        products = state @ context.rows.transpose(1, 2)
    return total
