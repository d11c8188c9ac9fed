"""Which strings the file of a split can hold: HDF5 ends a string at a NUL, and writes UTF-8."""

from __future__ import annotations


def check_string(where: str, text: str) -> None:
    """Refuses what the file of a split cannot hold, where it is read: the file that it is in can then be told.

    Raises:
        ValueError: beginning with ``where``: a NUL or a lone surrogate is in it.
    """
    if "\0" in text or not _encodes(text):
        raise ValueError(f"{where}: expected text without NUL and lone surrogates, got {text!r:.60}")


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
