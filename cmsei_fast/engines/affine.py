"""Products with a weight matrix, in the form that the device multiplies fastest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from ..transforms import has_tangent, is_transformed

# What torch.compile makes of a linear layer on a CPU: oneDNN uses AVX-512 on every processor that has it, and the
# BLAS behind torch's own product does not.
_ONEDNN: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def has_onednn() -> bool:
    """Whether :func:`product` multiplies float32 on the CPU by oneDNN where no gradient is asked for."""
    return _ONEDNN is not None and torch.backends.mkldnn.is_available()


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b (…, n) of x (…, d), weight (n, d) and bias (n,), all of one dtype; differentiable."""
    derived = torch.is_grad_enabled() or is_transformed() or has_tangent(x, weight, bias)
    plain = derived or x.device.type != "cpu" or x.dtype != torch.float32
    if plain or not has_onednn():
        return linear(x, weight, bias)
    return _ONEDNN(x.contiguous(), weight.contiguous(), bias, "none", [], "")


class Affine:
    """x Wᵀ + b in x's dtype, for many x; the weights are rounded once.

    Args:
        weight: (n, d).
        bias: (n,).
        precision: ``"bfloat16"`` rounds x, W and b to it and sums in float32; anything else is the weights' own dtype.
    """

    def __init__(self, weight: Tensor, bias: Tensor, precision: str = "float32") -> None:
        low = precision == "bfloat16"
        self._weight, self._bias = (x.to(torch.bfloat16) if low else x for x in (weight, bias))

    def __call__(self, x: Tensor) -> Tensor:
        """(…, n) of x (…, d)."""
        return product(x.to(self._weight.dtype), self._weight, self._bias).to(x.dtype)
