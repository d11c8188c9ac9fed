"""What the operators' gradients have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad


def first_only(name: str) -> Callable[..., NoReturn]:
    """The derivative of an operator's gradient, for ``register_autograd``: an error that says that there is none."""

    def second(ctx: Any, *grads: Any) -> NoReturn:
        raise RuntimeError(
            f"{name}: expected first derivatives alone, got a backward pass through its gradient (create_graph=True)"
        )

    return second


def refuse_tangents(name: str, *tensors: Tensor | None) -> None:
    """Forward-mode derivatives are an error: a custom operator drops them without a word, and they come out as 0.

    Raises:
        RuntimeError: a tensor has a tangent (``torch.func.jvp``, ``torch.autograd.forward_ad``).
    """
    if torch.compiler.is_compiling():
        return
    if any(x is not None and forward_ad.unpack_dual(x).tangent is not None for x in tensors):
        raise RuntimeError(f"{name}: expected derivatives backward alone, got forward mode (torch.func.jvp)")
