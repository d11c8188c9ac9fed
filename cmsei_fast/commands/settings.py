"""Command-line flags made of a dataclass's fields, over a JSON file of them."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from typing import Any

_KINDS: dict[str, Any] = {"int": int, "float": float, "str": str}


def add_flags(parser: argparse.ArgumentParser, dataclass: type, leave_out: tuple[str, ...] = ()) -> None:
    """A flag ``--some-name`` for each field; a flag that is not given is absent from the parsed arguments."""
    group = parser.add_argument_group(dataclass.__name__)
    for f in fields(dataclass):
        if f.name in leave_out:
            continue
        kind = str(f.type).split(" | ")[0]
        flag = f"--{f.name.replace('_', '-')}"
        if kind == "bool":
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS)
        elif kind.startswith("tuple"):
            group.add_argument(flag, nargs="*", default=argparse.SUPPRESS, metavar="NAME")
        else:
            group.add_argument(flag, type=_KINDS[kind], default=argparse.SUPPRESS, metavar=kind.upper())


def given(arguments: argparse.Namespace, dataclass: type) -> dict[str, Any]:
    """What of the fields the flags gave."""
    return {f.name: getattr(arguments, f.name) for f in fields(dataclass) if hasattr(arguments, f.name)}


def read_settings(path: str | None, sections: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The sections of a JSON file of settings, empty where there are none.

    Raises:
        OSError: the file cannot be opened.
        ValueError: naming the file and what it has that is no section.
    """
    if path is None:
        return {name: {} for name in sections}
    try:
        with open(path, encoding="utf-8") as file:
            record = json.load(file)
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, got {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path}: expected an object with any of {', '.join(sections)}, got another kind of JSON")
    for name, value in record.items():
        if name not in sections or not isinstance(value, dict):
            raise ValueError(f"{path}: expected any of {', '.join(sections)}, each an object, got {name!r}")
    return {name: dict(record.get(name, {})) for name in sections}
