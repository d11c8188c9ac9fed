"""Triton's interpreter without what it does again and again: half of the time of a kernel's test.

It exchanges the functions of ``triton.language`` for its own when a kernel is launched, and looks through all of them
once more at each call of one jit function by another, where they have been exchanged already.
"""

from __future__ import annotations

from typing import Any


def install() -> None:
    """From now on a launch looks through a module once. Nothing, where the interpreter has no such parts."""
    import triton.language as tl
    from triton.runtime import interpreter

    exchange, launch = (getattr(interpreter, name, None) for name in ("_patch_lang", "GridExecutor"))
    if exchange is None or launch is None or exchange.__module__ == __name__:
        return
    whole = launch.__call__
    seen: set[tuple[bool, ...]] = set()

    def once(function: Any) -> Any:
        modules = list(function.__globals__.values())
        which = tuple(any(x is module for x in modules) for module in (tl, tl.core))
        if which in seen:
            return None
        seen.add(which)
        return exchange(function)

    def launched(self: Any, *arguments: Any, **options: Any) -> Any:
        seen.clear()
        return whole(self, *arguments, **options)

    interpreter._patch_lang, launch.__call__ = once, launched
