"""Makes command-line flags of a dataclass's fields, and reads a JSON file of the same settings."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Collection
from dataclasses import Field, fields
from typing import Any

_TYPES: dict[str, Any] = {"int": int, "float": float, "str": str}


def add_flags(parser: argparse.ArgumentParser, dataclass: type, section: str, leave_out: tuple[str, ...] = ()) -> None:
    """Adds a flag ``--some-name`` for each field, with the help text from the dataclass's docstring.

    A flag that is not given is absent from the parsed arguments.

    Args:
        section: name of the object in the settings file that holds the same fields.
        leave_out: fields without a flag.
    """
    group = parser.add_argument_group(f"{section} settings (the object {section!r} of a settings file)")
    help_texts = _field_help(dataclass)
    for f in fields(dataclass):
        if f.name in leave_out:
            continue
        kind = str(f.type).split(" | ")[0]
        flag = f"--{f.name.replace('_', '-')}"
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": help_texts.get(f.name, "") + _default(f)}
        if kind == "bool":
            group.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
        elif kind.startswith("tuple"):
            group.add_argument(flag, nargs="*", metavar="NAME", **options)
        else:
            group.add_argument(flag, type=_TYPES[kind], metavar=kind.upper(), **options)


def _field_help(dataclass: type) -> dict[str, str]:
    """The help text of each field, from the section ``Args:`` of the docstring, escaped for argparse."""
    args = (inspect.getdoc(dataclass) or "").partition("Args:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", args, re.MULTILINE)
    return {name: " ".join(text.replace("`", "").replace("%", "%%").split()).rstrip(".") for name, text in entries}


def _default(field: Field[Any]) -> str:
    value = field.default
    if value is None:
        return ""
    if isinstance(value, bool):
        value = "yes" if value else "no"
    return f" (default: {' '.join(value) if isinstance(value, tuple) else value})"


def given_fields(arguments: argparse.Namespace, dataclass: type) -> dict[str, Any]:
    """The fields that flags gave, with their values."""
    return {f.name: getattr(arguments, f.name) for f in fields(dataclass) if hasattr(arguments, f.name)}


def check_minimum(flag: str, value: int | None, minimum: int) -> None:
    """Checks that the integer of a flag, if it was given, is at least ``minimum``.

    Raises:
        ValueError: naming the flag.
    """
    if value is not None and value < minimum:
        raise ValueError(f"{flag}: expected an integer >= {minimum}, got {value}")


def read_settings(
    path: str | None, sections: tuple[str, ...], others: Collection[str] = ()
) -> dict[str, dict[str, Any]]:
    """Reads the sections of a JSON settings file: all of ``sections``, empty if missing, and any of ``others``.

    Raises:
        OSError: the file cannot be opened.
        ValueError: naming the file and what in it is not a section, or is there twice.
    """
    if path is None:
        return {name: {} for name in sections}
    from ..data.json_object import read_json

    record = read_json(path, unique_keys=True)
    for name, value in record.items():
        if name not in (*sections, *others) or not isinstance(value, dict):
            raise ValueError(f"{path}: expected any of {', '.join(sections)}, each an object, got {name!r}")
    return {name: dict(record.get(name, {})) for name in (*sections, *(name for name in others if name in record))}
