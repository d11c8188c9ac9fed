"""What the operators' gradients have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn


def first_only(name: str) -> Callable[..., NoReturn]:
    """The derivative of an operator's gradient, for ``register_autograd``: an error that says that there is none."""

    def second(ctx: Any, *grads: Any) -> NoReturn:
        raise RuntimeError(
            f"{name}: expected first derivatives alone, got a backward pass through its gradient (create_graph=True)"
        )

    return second
