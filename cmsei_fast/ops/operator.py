"""Custom torch operators whose first call does not import the compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from cmsei_fast.compiling import outside_graphs


def _libraries(namespace: str) -> dict[str, torch.library.Library]:
    """The libraries of a namespace's operators by name; an operator ends with its library and can then be redefined.

    The namespace keeps them, not this module, which is itself another one where the package is imported a second time.
    """
    found: dict[str, torch.library.Library] = vars(getattr(torch.ops, namespace)).setdefault("_libraries", {})
    return found


class Operator:
    """An operator ``namespace::name`` that is opaque to ``torch.compile`` and runs on every device.

    It is what ``torch.library.custom_op`` makes of the same parts, less its check of every call that no output is an
    argument, which ``opcheck`` makes in the tests, and less what its first call does: it imports the compiler
    (torch._dynamo), about as long as torch itself, to keep it out of the function. :func:`outside_graphs` keeps it out
    without that.

    Args:
        qualname: ``"namespace::name"``.
        schema: arguments and outputs; no argument is changed and no output is a view of one.
        function: what it does, once tensors have their values.
    """

    def __init__(self, qualname: str, schema: str, function: Callable[..., Any]) -> None:
        self._qualname = qualname
        self._namespace, self._name = qualname.split("::")
        libraries = _libraries(self._namespace)
        libraries.pop(self._name, None)
        library = libraries[self._name] = torch.library.Library(self._namespace, "FRAGMENT")
        library.define(self._name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        library.impl(self._name, outside_graphs(function), "CompositeExplicitAutograd")

    def register_fake(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorator: the outputs' shapes and dtypes, without a tensor's values."""
        torch.library.register_fake(self._qualname, function, lib=self._library())
        return function

    def register_autograd(self, backward: Callable[..., Any], setup_context: Callable[..., None]) -> None:
        """The gradient, as ``torch.library.register_autograd`` takes it."""
        torch.library.register_autograd(self._qualname, backward, setup_context=setup_context, lib=self._library())

    def register_vmap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorator: ``torch.vmap`` of the operator."""
        torch.library.register_vmap(self._qualname, function, lib=self._library())
        return function

    def _library(self) -> torch.library.Library:
        return _libraries(self._namespace)[self._name]

    def __call__(self, *arguments: Any) -> Any:
        """The operator's outputs."""
        # Found anew: one that was kept would point at freed memory once the operator is made anew.
        return getattr(getattr(torch.ops, self._namespace), self._name).default(*arguments)


def operator(qualname: str, schema: str) -> Callable[[Callable[..., Any]], Operator]:
    """Decorator: a function as an :class:`Operator`."""
    return lambda function: Operator(qualname, schema, function)
