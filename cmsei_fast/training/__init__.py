"""Training: losses, the loop, checkpoints, and steps shared by several processes."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .config import TrainConfig

if TYPE_CHECKING:
    from .grounding import grounding_loss
    from .loop import train
    from .losses import InfoNCE, hinge_loss

__all__ = ["InfoNCE", "TrainConfig", "grounding_loss", "hinge_loss", "train"]

_HOME = {"InfoNCE": "losses", "grounding_loss": "grounding", "hinge_loss": "losses", "train": "loop"}


def __getattr__(name: str) -> Any:
    if name in _HOME:  # torch is loaded with them, and the command line's help does without
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
