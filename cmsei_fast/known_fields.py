"""What dataclasses of settings share: the check of their fields' names, and numpy's scalars as Python's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any


def check_known(what: str, names: Iterable[str], dataclass: type, error: type[Exception] = ValueError) -> None:
    """Raises ``error`` for the first name that is no field of the dataclass, with the names of all fields."""
    known = {f.name for f in fields(dataclass)}
    for name in names:
        if name not in known:
            raise error(f"{what}: expected any of {', '.join(sorted(known))}, got {name!r}")


def to_plain_scalars(settings: Any) -> None:
    """Makes numpy's scalars among a new frozen dataclass's fields Python's, which JSON can hold."""
    import numpy as np  # here, as the package's own import does without

    for f in fields(settings):
        value = getattr(settings, f.name)
        if isinstance(value, np.generic):
            object.__setattr__(settings, f.name, value.item())
