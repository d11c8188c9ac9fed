"""Precision ``"float8"``: features rounded to e4m3 numbers times a power of two of their row.

e4m3 (Micikevicius et al. 2022, "FP8 formats for deep learning") has four significant bits and no number above 448. A
row's scale is the least power of two at which its largest number does not pass 448, so that dividing by it is exact,
and bfloat16, whose eight bits hold the products, computes with the very numbers that e4m3 instructions multiply.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

LARGEST = 448.0
# Of a scale's exponent: below it, the smallest numbers of e4m3 (2⁻⁹) times the scale would be no normal float32.
_LEAST = -117


class Quantised(NamedTuple):
    """Rows as ``numbers * scales[:, None]``.

    Args:
        numbers: (rows, D) ``torch.float8_e4m3fn``, contiguous.
        scales: (rows,) float32, powers of two.
    """

    numbers: Tensor
    scales: Tensor


def quantise(rows: Tensor) -> Quantised:
    """The nearest e4m3 numbers, ties to even, to rows (rows, D) over their scales.

    The scale of a row with a NaN or an infinity is NaN.
    """
    rows = rows.float()
    largest = rows.abs().amax(1)
    mantissa, exponent = torch.frexp(largest)  # mantissa · 2^exponent, 0.5 <= mantissa < 1
    exponent = exponent.to(torch.int32) - torch.where(mantissa <= LARGEST / 512, 9, 8).to(torch.int32)
    exponent = exponent.clamp(_LEAST, 120)
    scales, inverse = (_power_of_two(x) for x in (exponent, -exponent))
    numbers = (rows * inverse[:, None]).to(torch.float8_e4m3fn)
    return Quantised(numbers, scales.masked_fill(~largest.isfinite(), torch.nan))


def dequantised(x: Quantised) -> Tensor:
    """(rows, D) bfloat16: exactly the numbers that ``x`` stands for."""
    return x.numbers.to(torch.bfloat16) * x.scales.to(torch.bfloat16)[:, None]


def rounded(rows: Tensor) -> Tensor:
    """Rows (rows, D) rounded as :func:`quantise` does, in bfloat16. Rounding them again changes nothing."""
    return dequantised(quantise(rows))


def held(rows: Tensor) -> Tensor:
    """The same in a dtype that is no narrower than that of the rows: gradients come back in it."""
    return rounded(rows).to(torch.promote_types(rows.dtype, torch.bfloat16))


def taken_as(module: ModuleType, precision: str) -> str:
    """The precision to ask an engine for: bfloat16 in the place of ``"float8"`` unless it says ``FLOAT8 = True``."""
    return "bfloat16" if precision == "float8" and not getattr(module, "FLOAT8", False) else precision


def taken(module: ModuleType, regions: Tensor, words: Tensor, precision: str) -> tuple[Tensor, Tensor, str]:
    """Features (rows, D) and precision as an engine takes them: rounded here where it does not know ``"float8"``."""
    own = taken_as(module, precision)
    if own == precision:
        return regions, words, precision
    return held(regions), held(words), own


def _power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent in float32, exactly; exponents (int32) of normal numbers."""
    return (exponent + 127).bitwise_left_shift(23).view(torch.float32)
