"""Texts of the data as a terminal is given them."""

from __future__ import annotations

_CONTROLS = [*range(32), *range(127, 160), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_TOLD = {code: repr(chr(code))[1:-1] for code in _CONTROLS}


def printed(text: str) -> str:
    """The text in one line: what would move a terminal's cursor, colour it or turn its direction is told by number."""
    return text.translate(_TOLD)
