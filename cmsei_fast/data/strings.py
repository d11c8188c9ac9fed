"""Which strings a split's file can hold: HDF5 ends a string at a NUL, and writes UTF-8."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def check_string(where: str, text: str) -> None:
    """Refuses what the file of a split cannot hold, where it is read: the file that it is in can then be told.

    Raises:
        ValueError: beginning with ``where``: a NUL or a lone surrogate is in it.
    """
    if not _fits(text):
        raise ValueError(f"{where}: expected text without NUL and lone surrogates, got {text!r:.60}")


def check_strings(where: Callable[[int], str], texts: Sequence[str]) -> None:
    """The same of many, such as a file's captions: each is looked at alone only if something is wrong with them.

    Args:
        where: the beginning of the message for the text of that index.
        texts: to be checked.

    Raises:
        ValueError: as :func:`check_string` does, for the first that cannot be held.
    """
    if not _fits("".join(texts)):
        for i, text in enumerate(texts):
            check_string(where(i), text)


def _fits(text: str) -> bool:
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
