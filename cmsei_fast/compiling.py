"""What is not for ``torch.compile``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def outside_graphs(f: Callable[P, R]) -> Callable[P, R]:
    """A function that runs as it is inside a compiled one: a break of its graph, not hundreds with a warning each.

    For what reads values, of which a graph would gain nothing: lengths, masks, scores in tiles.
    """

    @functools.wraps(f)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        # Not a decorator of the function itself: disable() imports the compiler, which takes longer than all of torch.
        if torch.compiler.is_compiling():
            disabled: Callable[P, R] = torch.compiler.disable(f, reason=f"{f.__name__} reads values")
            return disabled(*args, **kwargs)
        return f(*args, **kwargs)

    return call
