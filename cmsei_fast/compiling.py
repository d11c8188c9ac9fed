"""Keeps functions out of ``torch.compile``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def outside_graphs(f: Callable[P, R]) -> Callable[P, R]:
    """Makes a function run uncompiled inside a compiled one: one graph break, not hundreds with a warning each.

    For functions that read values (lengths, masks, scores in tiles), which would gain nothing from a graph.
    """

    @functools.wraps(f)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        # Not a decorator of the function itself: disable() imports the compiler, which takes longer than all of torch.
        if torch.compiler.is_compiling():
            disabled: Callable[P, R] = torch.compiler.disable(f, reason=f"{f.__name__} reads values")
            return disabled(*args, **kwargs)
        return f(*args, **kwargs)

    return call
