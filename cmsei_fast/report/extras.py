"""Checks for the packages that only pictures need: the extra ``plot``."""

from __future__ import annotations

import importlib.util

_MODULES = {"matplotlib": "matplotlib", "Pillow": "PIL"}


def require(argument: str, package: str = "matplotlib") -> None:
    """Checks that a package of the extra is installed.

    Args:
        argument: the argument or flag that needs it, for the message.
        package: ``"matplotlib"`` or ``"Pillow"``.

    Raises:
        ModuleNotFoundError: if it is not installed.
    """
    if importlib.util.find_spec(_MODULES[package]) is None:
        raise ModuleNotFoundError(
            f"{argument}: expected the package {package} (pip install 'cmsei-fast[plot]'), got none"
        )
