"""Scores of all pairs of packed images and sentences, as the custom operator ``cmsei_fast::pair_score``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cmsei_fast import engines
from cmsei_fast.checks import FLOATING
from cmsei_fast.encoded import Encoded
from cmsei_fast.engines.eight_bits import round_for_engine
from cmsei_fast.engines.terms import PRECISIONS, accumulator
from cmsei_fast.scorer import (
    AGGREGATES,
    ATTENDS,
    FIRST_GATE,
    I2T_ATTEND,
    MAX_STEPS,
    NORMS,
    RELEVANCES,
    T2I_ATTEND,
    PairScorer,
    scorer_at_hand,
    thresholds,
)

from .derivatives import differentiable, first_only, refuse_tangents
from .operator import operator


def pair_score(
    regions: Tensor | Encoded,
    words: Tensor | Encoded,
    region_offsets: Tensor | None = None,
    word_offsets: Tensor | None = None,
    *,
    scorer: PairScorer,
    scalars: Tensor | None = None,
    engine: str = "auto",
    precision: str | None = None,
) -> Tensor:
    """Scores of every image with every sentence; differentiable for regions, words and scalars.

    Args:
        regions: (ΣR, D) regions of all images, one image after the other; float16, bfloat16, float32 or float64. Or
            :class:`cmsei_fast.Encoded` images, which include their offsets.
        words: (ΣL, D) words of all sentences, in the dtype and on the device of regions; or encoded sentences. Under
            autocast the dtypes may differ; the wider one is then used for both (float64 too, which a matrix product
            would refuse).
        region_offsets: (N + 1,) int64 on the CPU: image i owns the rows from offset i to offset i + 1, at least one.
            None only for encoded images.
        word_offsets: (M + 1,) int64 on the CPU, likewise.
        scorer: what the score is: its structure and, if scalars is None, its numbers.
        scalars: (n,) weights, temperatures, gates and thresholds in the order of ``scorer.scalars()``, on the CPU or on
            the device of regions.
        engine: ``"auto"`` or an engine's name.
        precision: what the features are rounded to: ``"float32"``, ``"bfloat16"``, ``"float16"``, ``"float64"``, or,
            with a scale for each row (docs/scores.md), ``"float8"`` (e4m3) or ``"int8"``. Sums are float32 (float64 for
            ``"float64"``), and gradients are taken at the rounded features. None: autocast's dtype if it is on, else
            that of regions; float64 features stay float64.

    Returns:
        (N, M) float32, or float64 for precision ``"float64"``. Second derivatives and forward-mode derivatives raise an
        error.

    Raises:
        TypeError: for an argument of the wrong type or dtype.
        ValueError: for shapes, offsets, devices or names that do not fit.
        EngineUnavailable: if an engine requested by name cannot run here.
    """
    v, v_offsets = _packed("region", regions, region_offsets)
    w, w_offsets = _packed("word", words, word_offsets)
    _check_tensors(regions=v, words=w)
    for row, offsets in (("region", v_offsets), ("word", w_offsets)):
        if not isinstance(offsets, Tensor):
            way = f"cmsei_fast.Encoded({row}s, lengths) makes offsets of lengths of any kind"
            raise TypeError(f"{row}_offsets: expected a tensor, got {type(offsets).__name__}; {way}")
    if not isinstance(scorer, PairScorer):
        raise TypeError(f"scorer: expected a PairScorer, got {type(scorer).__name__}{scorer_at_hand(scorer)}")
    if v.dtype != w.dtype and {v.dtype, w.dtype} <= set(FLOATING) and _autocast(v.device.type):
        # Under autocast a projection returns its dtype, a normalisation float32: both are taken, as in a product.
        wide = torch.promote_types(v.dtype, w.dtype)
        v, w = v.to(wide), w.to(wide)
    if precision is None:
        precision = _own_precision(v)
    if scalars is None:
        scalars = torch.tensor(scorer.scalars(), dtype=accumulator(precision), device="cpu")
    _check_tensors(scalars=scalars)
    refuse_tangents("pair_score", v, w, scalars)
    options = (scorer.config(), engine, precision)
    return _differentiable(v, w, v_offsets, w_offsets, scalars, *options)


def _packed(row: str, rows: Any, offsets: Any) -> tuple[Any, Any]:
    """Rows and offsets of :class:`Encoded` items; anything else as it is."""
    if not isinstance(rows, Encoded):
        _check_packed(f"{row}s", rows)
        if offsets is None:
            raise TypeError(f"{row}_offsets: expected a tensor beside {row}s that are not Encoded, got None")
        return rows, offsets
    if offsets is not None:
        raise TypeError(
            f"{row}_offsets: expected None ({row}s are encoded and have theirs), got {type(offsets).__name__}"
        )
    _check_tensors(**{f"{row}s.rows": rows.rows})
    lengths = rows.lengths
    if lengths.is_floating_point() or lengths.is_complex():
        raise TypeError(f"{row}s.lengths: expected dtype torch.int64, got {lengths.dtype}")
    if lengths.device.type != "cpu":
        raise ValueError(f"{row}s.lengths: expected a tensor on the CPU, got one on {lengths.device}")
    return rows.rows, rows.offsets


def _check_packed(name: str, rows: Any) -> None:
    """Rejects padded items and non-tensors before the offsets, which such items do not have, are checked."""
    _check_tensors(**{name: rows})
    if rows.dim() != 2:
        way = "; cmsei_fast.Encoded.from_padded packs padded items" if rows.dim() == 3 else ""
        raise ValueError(f"{name}: expected 2 dimensions (rows, D), got shape {tuple(rows.shape)}{way}")


def _autocast(device: str) -> bool:
    return device != "meta" and torch.is_autocast_enabled(device)


def _own_precision(regions: Tensor) -> str:
    """Autocast's dtype where it is on (it leaves float64 alone), else that of the features."""
    dtype, device = regions.dtype, regions.device.type
    if dtype != torch.float64 and _autocast(device):
        dtype = torch.get_autocast_dtype(device)
    return str(dtype).removeprefix("torch.")


def _check_tensors(**values: Any) -> None:
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")


def _check(
    regions: Tensor,
    words: Tensor,
    region_offsets: Tensor,
    word_offsets: Tensor,
    scalars: Tensor,
    config: list[int],
    engine: str,
    precision: str,
) -> None:
    """Checks everything that can be checked without reading a tensor's values."""
    for name, x in (("regions", regions), ("words", words)):
        if x.dtype not in FLOATING:
            raise TypeError(f"{name}: expected float16, bfloat16, float32 or float64, got {x.dtype}")
        _check_packed(name, x)
    if words.dtype != regions.dtype:
        way = "words.to(regions.dtype) has it"
        raise TypeError(f"words: expected dtype {regions.dtype} (as regions), got {words.dtype}; {way}")
    if words.device != regions.device:
        raise ValueError(f"words: expected device {regions.device} (as regions), got {words.device}")
    if words.shape[1] != regions.shape[1]:
        raise ValueError(f"words: expected a last dimension of {regions.shape[1]} (as regions), got {words.shape[1]}")
    if regions.shape[1] == 0:
        raise ValueError("regions: expected a last dimension of at least 1, got 0")
    for name, x in (("region_offsets", region_offsets), ("word_offsets", word_offsets)):
        if x.dtype != torch.int64:
            raise TypeError(f"{name}: expected dtype torch.int64, got {x.dtype}")
        if x.device.type != "cpu":
            raise ValueError(f"{name}: expected a tensor on the CPU, got one on {x.device}")
        if x.dim() != 1 or x.shape[0] == 0:
            raise ValueError(f"{name}: expected shape (items + 1,), got {tuple(x.shape)}")
    if engine != "auto":
        engines.check_name(engine)
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected None or one of {', '.join(PRECISIONS)}, got {precision!r}")
    _check_scorer(scalars, config)
    if scalars.device.type != "cpu" and scalars.device != regions.device:
        places = "the CPU" if regions.device.type == "cpu" else f"the CPU or {regions.device}"
        raise ValueError(f"scalars: expected a tensor on {places} (as regions), got one on {scalars.device}")


def _check_scorer(scalars: Tensor, config: list[int]) -> None:
    limits = 2 * ((0, 1), (0, len(NORMS) - 1), (0, len(AGGREGATES) - 1), (1, MAX_STEPS)) + 3 * ((0, 1),)
    tail = 2 * ((0, len(ATTENDS) - 1), (0, len(RELEVANCES) - 1))
    known = len(config) == len(limits + tail)
    known = known and all(a <= x <= b for x, (a, b) in zip(config, limits + tail, strict=True))
    for first, attend in ((0, T2I_ATTEND), (4, I2T_ATTEND)):
        if known and config[first] == 0:
            known = config[first + 3] == 1 and config[attend] == config[attend + 1] == 0
        elif known and ATTENDS[config[attend]] == "negative_aware":
            known = config[first + 3] == 1 and RELEVANCES[config[attend + 1]] == "cosine"
    if not known:
        raise ValueError(f"config: expected PairScorer.config(), got {list(config)}")
    if scalars.dtype not in FLOATING:
        raise TypeError(f"scalars: expected float16, bfloat16, float32 or float64, got {scalars.dtype}")
    n = FIRST_GATE + 2 * (config[3] + config[7] - 2) + len(thresholds(config))
    if scalars.dim() != 1 or scalars.shape[0] != n:
        raise ValueError(f"scalars: expected shape ({n},), as this scorer's scalars(), got {tuple(scalars.shape)}")


def _check_offsets(name: str, offsets: Tensor, rows: int, owner: str) -> None:
    """Checks the values of the offsets; never called while tracing, when they have none."""
    if offsets[0] != 0:
        are_lengths = bool((offsets > 0).all()) and int(offsets.sum()) == rows
        way = f"; these are lengths, which cmsei_fast.Encoded({owner}, lengths) makes offsets of" if are_lengths else ""
        raise ValueError(f"{name}: expected the first offset to be 0, got {int(offsets[0])}{way}")
    lengths = offsets.diff()
    if bool((lengths < 1).any()):
        at = int((lengths < 1).nonzero()[0])
        raise ValueError(
            f"{name}: expected every item to own at least one row of {owner}, "
            f"got {int(lengths[at])} for item {at} ({int(offsets[at])} to {int(offsets[at + 1])})"
        )
    if offsets[-1] != rows:
        raise ValueError(f"{name}: expected the last offset to be {rows}, the rows of {owner}, got {int(offsets[-1])}")


@operator(
    "cmsei_fast::pair_score",
    "(Tensor regions, Tensor words, Tensor region_offsets, Tensor word_offsets, Tensor scalars, int[] config, "
    "str engine, str precision) -> Tensor",
)
def _pair_score(
    regions: Tensor,
    words: Tensor,
    region_offsets: Tensor,
    word_offsets: Tensor,
    scalars: Tensor,
    config: list[int],
    engine: str,
    precision: str,
) -> Tensor:
    _check(regions, words, region_offsets, word_offsets, scalars, config, engine, precision)
    _check_offsets("region_offsets", region_offsets, regions.shape[0], "regions")
    _check_offsets("word_offsets", word_offsets, words.shape[0], "words")
    module = engines.resolve(engine, regions.device, "pair_score", list(config))
    if len(region_offsets) == 1 or len(word_offsets) == 1:
        return _empty_scores(regions, region_offsets, word_offsets, precision)
    with torch.autocast(regions.device.type, enabled=False):
        regions, words, precision = round_for_engine(module, regions, words, precision)
        return module.pair_score(regions, words, region_offsets, word_offsets, scalars, config, precision)


def _empty_scores(regions: Tensor, region_offsets: Tensor, word_offsets: Tensor, precision: str) -> Tensor:
    shape = (region_offsets.shape[0] - 1, word_offsets.shape[0] - 1)
    return regions.new_empty(shape, dtype=accumulator(precision))


@_pair_score.register_fake
def _(
    regions: Tensor,
    words: Tensor,
    region_offsets: Tensor,
    word_offsets: Tensor,
    scalars: Tensor,
    config: list[int],
    engine: str,
    precision: str,
) -> Tensor:
    _check(regions, words, region_offsets, word_offsets, scalars, config, engine, precision)
    return _empty_scores(regions, region_offsets, word_offsets, precision)


@operator(
    "cmsei_fast::pair_score_backward",
    "(Tensor grad, Tensor regions, Tensor words, Tensor region_offsets, Tensor word_offsets, Tensor scalars, "
    "int[] config, str engine, str precision) -> (Tensor, Tensor, Tensor)",
)
def _pair_score_backward(
    grad: Tensor,
    regions: Tensor,
    words: Tensor,
    region_offsets: Tensor,
    word_offsets: Tensor,
    scalars: Tensor,
    config: list[int],
    engine: str,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor]:
    module = engines.resolve(engine, regions.device, "pair_score", list(config))
    if grad.numel() == 0:
        return _empty_gradients(regions, words, scalars, zero=True)
    with torch.autocast(regions.device.type, enabled=False):
        v, w, precision = round_for_engine(module, regions, words, precision)
        found = module.pair_score_backward(grad, v, w, region_offsets, word_offsets, scalars, config, precision)
        return found[0].to(regions.dtype), found[1].to(words.dtype), found[2]


def _empty_gradients(*inputs: Tensor, zero: bool) -> tuple[Tensor, Tensor, Tensor]:
    regions, words, scalars = (x.new_zeros(x.shape) if zero else x.new_empty(x.shape) for x in inputs)
    return regions, words, scalars


@_pair_score_backward.register_fake
def _(
    grad: Tensor,
    regions: Tensor,
    words: Tensor,
    region_offsets: Tensor,
    word_offsets: Tensor,
    scalars: Tensor,
    config: list[int],
    engine: str,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_gradients(regions, words, scalars, zero=False)


def _setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, config, engine, precision = inputs
    ctx.save_for_backward(*tensors)
    ctx.options = (list(config), engine, precision)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = _gradient(grad, *ctx.saved_tensors, *ctx.options)
    d_regions, d_words, d_scalars = (
        g if needed else None for g, needed in zip(grads, (ctx.needs_input_grad[i] for i in (0, 1, 4)), strict=True)
    )
    return d_regions, d_words, None, None, d_scalars, None, None, None


_differentiable = differentiable("pair_score", _pair_score, _backward, _setup_context)
_gradient = differentiable("pair_score", _pair_score_backward, first_only("pair_score"))
