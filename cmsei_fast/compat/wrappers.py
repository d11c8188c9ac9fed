"""What a training script puts around a model."""

from __future__ import annotations

from typing import Any


def unwrapped(model: Any) -> Any:
    """A model without ``DataParallel``, ``DistributedDataParallel`` and ``torch.compile``; anything else as it is."""
    for name in ("_orig_mod", "module"):
        inner = getattr(model, name, None)
        if inner is not None and not isinstance(inner, str):  # options may have a word of that name
            return unwrapped(inner)
    return model
