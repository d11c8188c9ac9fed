"""Reads lines of text files."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..strings import check_strings


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """The lines of a UTF-8 file, without surrounding white space; a blank line counts, but at the end.

    Raises:
        OSError: the file cannot be opened.
        ValueError: naming the file and the line: it is not UTF-8 or holds a NUL, or the file is empty.
    """
    with open(path, "rb") as file:
        content = file.read()
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise ValueError(f"{path}: expected at least one line, got an empty file")
    decoded: list[str] = []
    try:
        for line in lines:
            decoded.append(line.decode("utf-8").strip())  # noqa: PERF401 (their number gives the line of an error)
    except UnicodeDecodeError as error:
        byte = f"byte 0x{error.object[error.start]:02x} at column {error.start + 1}"
        raise ValueError(f"{path}, line {len(decoded) + 1}: expected UTF-8 text, got {byte}") from None
    check_strings(lambda i: f"{path}, line {i + 1}", decoded)
    return decoded


def blank_line(lines: Sequence[str]) -> str:
    """Says where a blank line is, for messages about a wrong number of lines, which it may cause; "" without one."""
    return f" (line {lines.index('') + 1} is blank)" if "" in lines else ""
