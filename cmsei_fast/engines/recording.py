"""Turns autograd on inside a custom operator, where the dispatcher has switched it off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def recording() -> Iterator[None]:
    """Record operations for ``torch.autograd.grad`` here, also below an operator's autograd dispatch key.

    A custom operator runs with the autograd keys excluded, so ``torch.enable_grad`` alone records nothing there;
    ``torch.utils.checkpoint`` lifts such an exclusion in the same way.
    """
    guard, key = torch._C._SetExcludeDispatchKeyGuard, torch._C.DispatchKey
    with guard(key.AutogradFunctionality, False), guard(key.ADInplaceOrView, False), torch.enable_grad():
        yield
