"""A linear layer over many tiles: its weights made ready once, in the form that the device multiplies fastest."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear


class Affine:
    """x Wᵀ + b in x's dtype.

    Args:
        weight: (n, d).
        bias: (n,).
        precision: ``"bfloat16"`` rounds x, W and b to it and sums in float32; anything else is the weights' own dtype.
    """

    def __init__(self, weight: Tensor, bias: Tensor, precision: str = "float32") -> None:
        low = precision == "bfloat16"
        weight, bias = (x.to(torch.bfloat16) if low else x for x in (weight, bias))
        # oneDNN has AVX-512 on every processor that has it; the BLAS behind torch's own product not on all.
        plain = low or torch.is_grad_enabled() or weight.device.type != "cpu" or weight.dtype != torch.float32
        self._blocked = not plain and torch.backends.mkldnn.is_available()
        self._weight, self._bias = (x.to_mkldnn() if self._blocked else x for x in (weight, bias))

    def __call__(self, x: Tensor) -> Tensor:
        """(…, n) of x (…, d)."""
        if self._blocked:
            out = linear(x.flatten(0, -2).to_mkldnn(), self._weight, self._bias).to_dense()
            return out.view(*x.shape[:-1], out.shape[-1])
        return linear(x.to(self._weight.dtype), self._weight, self._bias).to(x.dtype)
