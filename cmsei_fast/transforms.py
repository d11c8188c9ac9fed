"""Which of torch's transforms are active: those of ``torch.func``, and forward-mode derivatives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_transformed() -> bool:
    """Whether a transform of ``torch.func`` is at work, whose tensors have no memory of their own."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def has_tangent(*tensors: Tensor | None) -> bool:
    """Whether a tensor has a forward-mode tangent (``torch.func.jvp``, ``torch.autograd.forward_ad``)."""
    if torch.compiler.is_compiling():
        return False
    return any(x is not None and forward_ad.unpack_dual(x).tangent is not None for x in tensors)
