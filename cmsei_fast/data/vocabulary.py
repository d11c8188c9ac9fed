"""The vocabulary: words and their numbers, in the JSON form that published code reads and writes."""

from __future__ import annotations

import json
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from .json_object import write_json
from .lexical import tokenize

SPECIAL = ("<pad>", "<start>", "<end>", "<unk>")
PAD, START, END, UNKNOWN = range(4)


class Vocabulary:
    """Words numbered from 0; the first four stand for padding, start, end and unknown words.

    A word with a typeset apostrophe or decomposed accents is also found under the spelling that the tokenizer makes of
    it, unless that is a word of its own: a caption's words are looked up as the tokenizer returns them.

    Args:
        words: all words, ``SPECIAL`` first, none twice.
        tokenizer: splits a caption into words; a module-level function, if the vocabulary is to be pickled.

    Attributes:
        words: tuple of all words.
        index: number of each word.

    Raises:
        ValueError: if the words do not begin with ``SPECIAL``, or one occurs twice.
    """

    def __init__(self, words: Iterable[str], tokenizer: Callable[[str], list[str]] = tokenize):
        self.words = tuple(words)
        self.tokenizer = tokenizer
        if self.words[: len(SPECIAL)] != SPECIAL:
            raise ValueError(f"words: expected {', '.join(SPECIAL)} first, got {', '.join(map(str, self.words[:4]))}")
        self.index = {word: i for i, word in enumerate(self.words)}
        if len(self.index) != len(self.words):
            twice = next(word for word, count in Counter(self.words).items() if count > 1)
            raise ValueError(f"words: expected each word once, got {twice!r} twice")
        self._spelled: dict[str, int] = {}
        for word, number in self.index.items():
            if "’" in word or not unicodedata.is_normalized("NFC", word):
                made = tokenizer(word)
                if len(made) == 1 and made[0] not in self.index:
                    self._spelled.setdefault(made[0], number)

    @classmethod
    def build(
        cls, captions: Iterable[str], min_count: int = 1, tokenizer: Callable[[str], list[str]] = tokenize
    ) -> Vocabulary:
        """The words that occur at least ``min_count`` times, the most frequent first, ties in alphabetical order.

        Raises:
            TypeError: for one string in place of a sequence of sentences, or an item that is not a string.
        """
        if isinstance(captions, str):
            raise TypeError(f"captions: expected a sequence of sentences, got one string {captions!r:.60}")
        captions = list(captions)
        for j, caption in enumerate(captions):
            if not isinstance(caption, str):
                raise TypeError(f"captions[{j}]: expected a sentence, got {type(caption).__name__}")
        counts = Counter(word for caption in captions for word in tokenizer(caption))
        kept = [word for word, count in counts.items() if count >= min_count and word not in SPECIAL]
        return cls((*SPECIAL, *sorted(kept, key=lambda word: (-counts[word], word))), tokenizer)

    @classmethod
    def load(cls, path: str | os.PathLike[str], tokenizer: Callable[[str], list[str]] = tokenize) -> Vocabulary:
        """Reads a JSON object with ``word2idx``, ``idx2word`` and ``idx`` (the number of words).

        Raises:
            OSError: the file cannot be opened.
            ValueError: naming the file: malformed JSON, a missing key, or numbers that are not 0, 1, 2, …
        """
        with open(path, "rb") as file:
            text = file.read()
        try:
            return cls(_words(json.loads(text.decode("utf-8"))), tokenizer)
        except RecursionError:
            raise ValueError(f"{path}: expected a vocabulary, got JSON nested too deeply") from None
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: expected a vocabulary as JSON, got malformed JSON: {error}") from None
        except UnicodeDecodeError:
            raise ValueError(f"{path}: expected a vocabulary as JSON, got no text (a pickle is not read)") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the JSON object that :meth:`load` reads, whole or not at all."""
        words = {"word2idx": self.index, "idx2word": dict(enumerate(self.words)), "idx": len(self.words)}
        write_json(path, words, indent=None)

    def encode(self, caption: str, start_end: bool = False) -> list[int]:
        """The numbers of a caption's words, between ``<start>`` and ``<end>`` if ``start_end``.

        A caption without words is encoded as one unknown word.

        Raises:
            TypeError: if the caption is not a string.
        """
        if not isinstance(caption, str):
            raise TypeError(f"caption: expected a sentence, got {type(caption).__name__}")
        numbers = [self._number(word) for word in self.tokenizer(caption)] or [UNKNOWN]
        return [START, *numbers, END] if start_end else numbers

    def knows(self, word: str) -> bool:
        """Whether a word, as the tokenizer gives it, has a number of its own."""
        return word in self.index or word in self._spelled

    def _number(self, word: str) -> int:
        return self.index.get(word, self._spelled.get(word, UNKNOWN))

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self.index


def _words(record: Any) -> list[str]:
    if not isinstance(record, dict):
        raise ValueError(f"expected one JSON object, got {type(record).__name__}")
    missing = [key for key in ("word2idx", "idx2word", "idx") if key not in record]
    if missing:
        raise ValueError(f"missing {'key' if len(missing) == 1 else 'keys'} {', '.join(missing)}")
    index, inverse, count = record["word2idx"], record["idx2word"], record["idx"]
    if not isinstance(index, dict) or not isinstance(inverse, dict):
        raise ValueError("word2idx, idx2word: expected two objects")
    if count != len(index) or count != len(inverse):
        raise ValueError(
            f"idx: expected the number of words in word2idx and idx2word ({len(index)}, {len(inverse)}), got {count!r}"
        )
    words = [inverse.get(str(i)) for i in range(len(inverse))]
    for i, word in enumerate(words):
        if not isinstance(word, str) or index.get(word) != i or isinstance(index[word], bool):
            raise ValueError(f"idx2word[{i}]: expected the word that word2idx numbers {i}, got {word!r}")
    return [str(word) for word in words]
