"""Reads the members of a JSON object one at a time, for objects too large to hold."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

_BLOCK = 1 << 20  # characters
_SLACK = 64  # characters from the end of a block within which an error may be a value cut in two
_SPACE = " \t\r\n"


def members(
    path: str | os.PathLike[str], progress: Callable[[int], Any] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and value of each member of the object in a file; the values are objects.

    Args:
        path: of the file, UTF-8.
        progress: called with the number of characters read since its last call.

    Raises:
        OSError: the file cannot be opened.
        ValueError: naming the file: malformed or truncated JSON, another value than an object.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield from _Reader(file.read, progress or (lambda count: None)).members()
    except RecursionError:
        raise ValueError(f"{path}: expected an object of objects, got JSON nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path}: expected an object of objects, got malformed or truncated JSON: {error}") from None


class _Reader:
    def __init__(self, read: Callable[[int], str], progress: Callable[[int], Any]):
        self._read, self._progress = read, progress
        self._text, self._at, self._before = "", 0, 0
        self._decode = json.JSONDecoder().raw_decode
        self._got: Any = None

    def members(self) -> Iterator[tuple[str, dict[str, Any]]]:
        self._expect("{")
        if self._peek() == "}":
            self._at += 1
        else:
            while True:
                key = self._value('"')
                self._expect(":")
                yield key, self._value("{")
                if self._expect(",}") == "}":
                    break
        if self._peek(end=True):
            raise ValueError(f"expected its end at character {self._before + self._at}, got {self._peek()!r}")

    def _more(self) -> bool:
        """Drops what has been read and appends a block, at least as long as the text that is left."""
        block = self._read(max(_BLOCK, len(self._text) - self._at))
        self._progress(len(block))
        self._before += self._at
        self._text, self._at = self._text[self._at :] + block, 0
        return bool(block)

    def _peek(self, end: bool = False) -> str:
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                if end:
                    return ""
                raise ValueError(f"it ends at character {self._before + self._at}")

    def _expect(self, choices: str) -> str:
        got = self._peek()
        if got not in choices:
            raise ValueError(f"expected {' or '.join(choices)} at character {self._before + self._at}, got {got!r}")
        self._at += 1
        return got

    def _value(self, opening: str) -> Any:
        if self._peek() != opening:
            raise ValueError(f"expected {opening} at character {self._before + self._at}, got {self._peek()!r}")
        while (problem := self._try_decode()) is not None:
            where = self._before + problem.pos
            cut = problem.pos > len(self._text) - _SLACK or problem.msg.startswith("Unterminated string")
            if not cut or not self._more():
                raise ValueError(f"{problem.msg} at character {where}")
        return self._got

    def _try_decode(self) -> json.JSONDecodeError | None:
        """Reads a value into ``_got``; returns the error if there is no whole value."""
        try:
            self._got, self._at = self._decode(self._text, self._at)
        except json.JSONDecodeError as error:
            return error
        return None
