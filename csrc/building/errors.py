"""The error that a build may end with."""

from __future__ import annotations


class BuildError(RuntimeError):
    """A module that was asked for cannot be built; the message says why and what to do."""
