"""Reads and writes files that hold one JSON object."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from .files import write_text
from .strings import check_strings


class _RepeatedKey(Exception):
    """A key that an object has twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for key, value in pairs:
        if key in record:
            raise _RepeatedKey(key)
        record[key] = value
    return record


def read_json(path: str | os.PathLike[str], *, unique_keys: bool = False) -> dict[str, Any]:
    """The JSON object in a file of UTF-8 text.

    Args:
        unique_keys: refuses an object with a key twice, of which Python would take the last; for files written by hand.

    Raises:
        OSError: the file cannot be opened.
        ValueError: naming the file: not UTF-8, malformed or truncated JSON, no object, or a repeated key.
    """
    with open(path, "rb") as file:
        content = file.read()
    try:
        record = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_unique if unique_keys else None)
    except _RepeatedKey as error:
        raise ValueError(f"{os.fspath(path)}: expected each key once, got {error.args[0]!r} twice") from None
    except RecursionError:
        raise ValueError(f"{os.fspath(path)}: expected one JSON object, got JSON nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: expected one JSON object, got malformed JSON: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"{os.fspath(path)}: expected one JSON object, got {type(record).__name__}")
    return record


def string_list(path: str | os.PathLike[str], record: dict[str, Any], key: str) -> tuple[str, ...]:
    """The strings under a key of a file's object.

    Raises:
        ValueError: naming the file and the key: missing, or no list of strings, or what a split's file cannot hold.
    """
    values = record.get(key)
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{path}: {key}: expected a list of strings, got {values!r:.60}")
    check_strings(lambda i: f"{path}: {key}[{i}]", values)
    return tuple(values)


def write_json(path: str | os.PathLike[str], record: Mapping[str, Any], indent: int | None = 2) -> None:
    """Writes an object that :func:`read_json` reads back, whole or not at all.

    Raises:
        OSError: the file cannot be written.
        ValueError: for a NaN or an infinity, which JSON does not have.
    """
    write_text(path, json.dumps(record, indent=indent, allow_nan=False) + "\n")
