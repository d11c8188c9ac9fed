"""Inner products of rounded rows, and their gradient, by a library that sums in the accumulator's dtype."""

from __future__ import annotations

import torch
from torch import Tensor


def inner_products(x: Tensor, y: Tensor) -> Tensor:
    """x yᵀ (a, b) of rows x (a, D) and y (b, D) of one dtype, summed and returned in the accumulator's dtype.

    Rows of 16 bits must be on a GPU: a CPU's product would round its output.
    """
    if x.dtype in (torch.bfloat16, torch.float16):
        return torch.mm(x, y.T, out_dtype=torch.float32)
    return x @ y.T


def inner_products_vjp(ds: Tensor, y: Tensor) -> Tensor:
    """The gradient (a, D) of the rows x of x yᵀ, from that of their inner products ds (a, b) with y (b, D).

    Summed in the accumulator's dtype. bfloat16 has the range of float32: rounding ds to it costs a relative 2⁻⁹, as
    autograd's own product does.
    """
    if y.dtype == torch.bfloat16:
        return torch.mm(ds.to(y.dtype), y, out_dtype=torch.float32)
    return ds @ y.to(ds.dtype)
