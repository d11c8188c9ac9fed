"""What the operators' derivatives have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..transforms import has_tangent, is_transformed
from .operator import Operator

_FORWARD_MODE = "{name}: expected reverse-mode derivatives only, got forward mode (torch.func.jvp)"


def differentiable(
    name: str,
    operator: Operator,
    backward: Callable[..., Any],
    setup_context: Callable[[Any, tuple, Any], None] = lambda ctx, inputs, output: None,
) -> Callable[..., Any]:
    """Gives a custom operator its gradient; returns a function that calls it, in the transforms of ``torch.func`` too.

    The transforms reject the autograd function that torch makes in ``register_autograd``; there, another one made of
    the same parts is called. ``vmap`` calls the operator for one item after the other.

    Args:
        name: the operator's name, for messages.
        operator: takes tensors and options; it is differentiable only by tensors that are arguments themselves.
        backward: from ``ctx`` and the outputs' gradients to the inputs'; the operators that it calls must be ones that
            this function has returned.
        setup_context: from ``ctx``, inputs and output.
    """
    operator.register_autograd(backward, setup_context=setup_context)

    @operator.register_vmap
    def one_by_one(info: Any, in_dims: tuple, *inputs: Any) -> tuple[Any, Any]:
        sources = [(x, dim if isinstance(x, Tensor) else None) for x, dim in zip(inputs, in_dims, strict=True)]
        outputs = [
            operator(*(x if dim is None else x.select(dim, i) for x, dim in sources)) for i in range(info.batch_size)
        ]
        if isinstance(outputs[0], Tensor):
            return torch.stack(outputs), 0
        stacked = tuple(torch.stack(each) for each in zip(*outputs, strict=True))
        return stacked, (0,) * len(stacked)

    def refuse(ctx: Any, *tangents: Any) -> NoReturn:
        raise RuntimeError(_FORWARD_MODE.format(name=name))

    members = {"forward": lambda *inputs: operator(*inputs), "setup_context": setup_context, "backward": backward}
    methods = {key: staticmethod(f) for key, f in (members | {"jvp": refuse}).items()}
    transformed = type(name, (torch.autograd.Function,), {"generate_vmap_rule": True, **methods})

    def call(*inputs: Any) -> Any:
        if is_transformed():
            return transformed.apply(*inputs)  # type: ignore[attr-defined]
        return operator(*inputs)

    return call


def first_only(name: str) -> Callable[..., NoReturn]:
    """A backward for an operator's gradient: it raises an error, because there is no second derivative."""

    def second(ctx: Any, *grads: Any) -> NoReturn:
        raise RuntimeError(
            f"{name}: expected first derivatives only, got a backward pass through its gradient (create_graph=True)"
        )

    return second


def refuse_tangents(name: str, *tensors: Tensor | None) -> None:
    """Refuses forward-mode derivatives, which a custom operator would silently drop: they would come out as 0.

    Raises:
        RuntimeError: a tensor has a tangent (``torch.func.jvp``, ``torch.autograd.forward_ad``).
    """
    if has_tangent(*tensors):
        raise RuntimeError(_FORWARD_MODE.format(name=name))
