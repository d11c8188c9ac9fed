"""Which modules the environment asks for."""

from __future__ import annotations

from collections.abc import Mapping

from .errors import BuildError


def switch(name: str, environ: Mapping[str, str]) -> str:
    """The value of CMSEI_NATIVE or CMSEI_CUDA: "0", "1" or "auto" (the default)."""
    value = environ.get(name, "").strip().lower() or "auto"
    if value not in ("0", "1", "auto"):
        raise BuildError(f"{name}: expected 0, 1 or auto, got {environ[name]!r}")
    return value
