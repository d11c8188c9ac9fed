"""Packages that only pictures need: the extra ``plot``."""

from __future__ import annotations

import importlib.util

_MODULES = {"matplotlib": "matplotlib", "Pillow": "PIL"}


def require(argument: str, package: str = "matplotlib") -> None:
    """A package of the extra is there.

    Args:
        argument: what asked for it, for the message.
        package: ``"matplotlib"`` or ``"Pillow"``.

    Raises:
        ModuleNotFoundError: if it is not installed.
    """
    if importlib.util.find_spec(_MODULES[package]) is None:
        raise ModuleNotFoundError(
            f"{argument}: expected the package {package} (pip install 'cmsei-fast[plot]'), got none"
        )
