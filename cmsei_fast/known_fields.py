"""The check that a dictionary of settings names only fields of a dataclass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields


def check_known(what: str, names: Iterable[str], dataclass: type, error: type[Exception] = ValueError) -> None:
    """Raises ``error`` for the first name that is no field of the dataclass, with the names of all fields."""
    known = {f.name for f in fields(dataclass)}
    for name in names:
        if name not in known:
            raise error(f"{what}: expected any of {', '.join(sorted(known))}, got {name!r}")
