"""The CMSEI model: regions, graphs over them, words, and the interaction that scores them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .config import ModelConfig

if TYPE_CHECKING:
    from .cmsei import CMSEI

__all__ = ["CMSEI", "ModelConfig"]


def __getattr__(name: str) -> Any:
    if name == "CMSEI":  # torch is loaded with it, and the command line's help does without
        from .cmsei import CMSEI

        return CMSEI
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
