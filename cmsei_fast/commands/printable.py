"""Makes texts of the data safe to print on a terminal."""

from __future__ import annotations

_CONTROL_CODES = [*range(32), *range(127, 160), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_ESCAPES = {code: repr(chr(code))[1:-1] for code in _CONTROL_CODES}


def printable(text: str) -> str:
    """The text in one line, with escapes for characters that move the cursor, set colours or turn the direction."""
    return text.translate(_ESCAPES)
