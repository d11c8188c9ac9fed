"""Custom operators of torch that start at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from cmsei_fast.compiling import outside_graphs

# By the operators' names, and nowhere else: an operator ends with its library, so that a module that is read anew can
# make it anew.
_libraries: dict[str, torch.library.Library] = {}


class Operator:
    """An operator ``namespace::name`` that is opaque to ``torch.compile`` and runs on every device.

    It is what ``torch.library.custom_op`` makes of the same parts, less one thing: there the first call imports the
    compiler (torch._dynamo), about as long as torch itself, to keep it out of the function. :func:`outside_graphs`
    keeps it out without that.

    Args:
        qualname: ``"namespace::name"``.
        schema: arguments and outputs; no argument is changed and no output is a view of one.
        function: what it does, once tensors have their values.
    """

    def __init__(self, qualname: str, schema: str, function: Callable[..., Any]) -> None:
        self._qualname = qualname
        namespace, name = qualname.split("::")
        _libraries.pop(qualname, None)
        library = _libraries[qualname] = torch.library.Library(namespace, "FRAGMENT")
        library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        library.impl(name, outside_graphs(function), "CompositeExplicitAutograd")
        self._overload = getattr(getattr(torch.ops, namespace), name).default

    def register_fake(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorator: the outputs' shapes and dtypes, without a tensor's values."""
        torch.library.register_fake(self._qualname, function, lib=_libraries[self._qualname])
        return function

    def register_autograd(self, backward: Callable[..., Any], setup_context: Callable[..., None]) -> None:
        """The gradient, as ``torch.library.register_autograd`` takes it."""
        torch.library.register_autograd(
            self._qualname, backward, setup_context=setup_context, lib=_libraries[self._qualname]
        )

    def register_vmap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorator: ``torch.vmap`` of the operator."""
        torch.library.register_vmap(self._qualname, function, lib=_libraries[self._qualname])
        return function

    def __call__(self, *arguments: Any) -> Any:
        """The operator's outputs."""
        return self._overload(*arguments)


def operator(qualname: str, schema: str) -> Callable[[Callable[..., Any]], Operator]:
    """Decorator: a function as an :class:`Operator`."""
    return lambda function: Operator(qualname, schema, function)
