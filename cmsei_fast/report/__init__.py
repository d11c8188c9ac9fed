"""Pages and pictures that show what was measured and what a model sees."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .draw_explanation import draw
    from .explaining import explain, explain_features
    from .explanation import Explanation
    from .explanation_page import save_page

__all__ = ["Explanation", "draw", "explain", "explain_features", "save_page"]

_HOME = {
    "Explanation": "explanation",
    "draw": "draw_explanation",
    "explain": "explaining",
    "explain_features": "explaining",
    "save_page": "explanation_page",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:  # torch is loaded with some of them, and the command line's help does without
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
