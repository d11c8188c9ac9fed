"""Custom torch operators whose first call does not import the compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from cmsei_fast.compiling import outside_graphs


def _libraries(namespace: str) -> dict[str, torch.library.Library]:
    """The libraries of a namespace's operators by name; an operator ends with its library and can then be redefined.

    The namespace keeps them, not this module: if the package is imported a second time, there is a second module.
    """
    found: dict[str, torch.library.Library] = vars(getattr(torch.ops, namespace)).setdefault("_libraries", {})
    return found


class Operator:
    """An operator ``namespace::name`` that is opaque to ``torch.compile`` and runs on every device.

    It is like what ``torch.library.custom_op`` makes of the same parts, but omits two things. One is the check of every
    call that no output is an argument, which the tests do by ``opcheck``. The other is the import of the compiler
    (torch._dynamo) at the first call, which takes about as long as that of torch itself and only serves to keep the
    compiler out of the function: :func:`outside_graphs` does this without it.

    Args:
        qualname: ``"namespace::name"``.
        schema: arguments and outputs; no argument is changed and no output is a view of one.
        function: computes the outputs from real tensors.
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
        """Decorator: registers a function that makes outputs of the right shapes and dtypes without reading values."""
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
        # Looked up at each call: a kept operator would point at freed memory once the operator is defined again.
        return getattr(getattr(torch.ops, self._namespace), self._name).default(*arguments)


def operator(qualname: str, schema: str) -> Callable[[Callable[..., Any]], Operator]:
    """Decorator: a function as an :class:`Operator`."""
    return lambda function: Operator(qualname, schema, function)
