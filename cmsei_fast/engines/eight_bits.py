"""Precisions ``"float8"`` and ``"int8"``: features rounded to 8-bit numbers times a power of two for each row.

``"float8"`` takes e4m3 numbers (Micikevicius et al. 2022, "FP8 formats for deep learning"): four significant bits, none
above 448. ``"int8"`` takes whole numbers from -127 to 127. A row's scale is the least power of two at which its largest
number does not exceed the format's, so dividing by it is exact. bfloat16 has eight significant bits, enough to hold
each number times its scale, and so computes with the very numbers that 8-bit instructions multiply.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor


class Format(NamedTuple):
    """Numbers of 8 bits: their dtype, the largest, and the exponent of the smallest above 0, a power of two."""

    dtype: torch.dtype
    largest: float
    smallest: int


FORMATS = {"float8": Format(torch.float8_e4m3fn, 448.0, -9), "int8": Format(torch.int8, 127.0, 0)}
_LEAST_NORMAL, _MOST = -126, 127  # exponents of float32


class Quantised(NamedTuple):
    """Rows as ``numbers * scales[:, None]``.

    Args:
        numbers: (rows, D) in the format's dtype, contiguous.
        scales: (rows,) float32, powers of two.
    """

    numbers: Tensor
    scales: Tensor


def quantise(rows: Tensor, precision: str) -> Quantised:
    """Rows (rows, D) divided by their scales and rounded to the format's nearest numbers, ties to even.

    The scale of a row with a NaN or an infinity is NaN. Scales are not so small that a number times its scale could be
    below float32's normal numbers.
    """
    kind = FORMATS[precision]
    fraction, power = math.frexp(kind.largest)
    rows = rows.float()
    largest = rows.abs().amax(1)
    mantissa, exponent = torch.frexp(largest)  # mantissa · 2^exponent, 0.5 <= mantissa < 1
    exponent = exponent.to(torch.int32) - power + (mantissa > fraction).to(torch.int32)
    exponent = exponent.clamp(_LEAST_NORMAL - kind.smallest, _MOST + 1 - power)
    scales, inverse = (_power_of_two(x) for x in (exponent, -exponent))
    numbers = rows * inverse[:, None]
    if not kind.dtype.is_floating_point:
        numbers = numbers.round()
    return Quantised(numbers.to(kind.dtype), scales.masked_fill(~largest.isfinite(), torch.nan))


def dequantised(x: Quantised) -> Tensor:
    """(rows, D) bfloat16: exactly the numbers that ``x`` stands for."""
    return x.numbers.to(torch.bfloat16) * x.scales.to(torch.bfloat16)[:, None]


def rounded(rows: Tensor, precision: str) -> Tensor:
    """Rows (rows, D) rounded as :func:`quantise` does, in bfloat16. Rounding them again changes nothing."""
    return dequantised(quantise(rows, precision))


def rounded_wide(rows: Tensor, precision: str) -> Tensor:
    """Rounds rows (rows, D) as :func:`rounded` does, in a dtype no narrower than theirs, as their gradients need."""
    return rounded(rows, precision).to(torch.promote_types(rows.dtype, torch.bfloat16))


def engine_precision(module: ModuleType, precision: str) -> str:
    """Returns the precision to pass to an engine: bfloat16 for an 8-bit one that it does not round to itself."""
    return "bfloat16" if precision in FORMATS and not rounds(module, precision) else precision


def rounds(module: ModuleType, precision: str) -> bool:
    """Whether an engine rounds features to this 8-bit precision itself, by its optional function ``rounds``."""
    function = getattr(module, "rounds", None)
    return function is not None and bool(function(precision))


def round_for_engine(module: ModuleType, regions: Tensor, words: Tensor, precision: str) -> tuple[Tensor, Tensor, str]:
    """Returns features (rows, D) and precision for an engine; rounds to 8 bits here if the engine does not itself."""
    passed = engine_precision(module, precision)
    if passed == precision:
        return regions, words, precision
    return rounded_wide(regions, precision), rounded_wide(words, precision), passed


def _power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent in float32, exactly; exponents (int32) of normal numbers."""
    return (exponent + 127).bitwise_left_shift(23).view(torch.float32)
