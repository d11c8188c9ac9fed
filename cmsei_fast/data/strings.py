"""Which strings a split's file can hold: HDF5 ends a string at a NUL, and writes UTF-8."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def check_string(where: str, text: str) -> None:
    """Refuses text that the file of a split cannot hold; called where text is read, to name the file it came from.

    Raises:
        ValueError: beginning with ``where``: a NUL or a lone surrogate is in it.
    """
    if not _fits(text):
        raise ValueError(f"{where}: expected text without NUL and lone surrogates, got {text!r:.60}")


def check_strings(where: Callable[[int], str], texts: Sequence[str]) -> None:
    """Checks many texts, such as a file's captions, at once; one by one only if something is wrong with them.

    Args:
        where: the beginning of the message for the text of that index.
        texts: the texts to check.

    Raises:
        ValueError: as :func:`check_string` does, for the first bad text.
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
