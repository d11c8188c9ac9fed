"""Reads and writes files that hold one JSON object."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from .files import write_text
from .strings import check_strings


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON object in a file of UTF-8 text.

    Raises:
        OSError: the file cannot be opened.
        ValueError: naming the file: not UTF-8, malformed or truncated JSON, or no object.
    """
    with open(path, "rb") as file:
        content = file.read()
    try:
        record = json.loads(content.decode("utf-8-sig"))
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
