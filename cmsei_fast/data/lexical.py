"""An untrained encoding: each word is a fixed unit vector, and a region is the word of its label.

Nothing is learned or tuned on a data set, so it shows how much retrieval shared words alone can give.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

import numpy as np

from .scenes import SceneSet

_PRIVATE = 64  # dimensions of the space of words that are no label
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")


@dataclass(frozen=True)
class LexicalEncoding:
    """A scene set as packed rows.

    Args:
        regions: (ΣR, D) float32 unit rows, image by image; ``region_lengths`` (N,) int64.
        words: (ΣL, D) float32 unit rows, caption by caption; ``word_lengths`` (M,) int64.
        caption_to_image: (M,) int64.
    """

    regions: np.ndarray
    region_lengths: np.ndarray
    words: np.ndarray
    word_lengths: np.ndarray
    caption_to_image: np.ndarray


def tokenize(text: str) -> list[str]:
    """Lower-case words of a sentence: runs of letters and digits, with an inner apostrophe; no punctuation.

    However a word was typed, it comes out the same: accents are composed (Unicode NFC), typeset apostrophes made plain.
    """
    return _WORD.findall(unicodedata.normalize("NFC", text.lower()).replace("’", "'"))


def singular(word: str) -> str:
    """The word without a plural ending, crudely: ``-men`` to ``-man``, ``-ies`` to ``-y``, no ``-s`` or ``-es``."""
    if word.endswith("men") and len(word) < 8:
        return word[:-2] + "an"
    if word == "children":
        return "child"
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("sses", "xes", "zes", "ches", "shes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def word_vector(word: str, width: int, seed: int = 0) -> np.ndarray:
    """(width,) float32 random unit vector, a function of the word, the width and the seed alone.

    Different words are orthogonal up to about 1 / sqrt(width).
    """
    digest = hashlib.blake2b(f"{seed}:{word}".encode(), digest_size=8).digest()
    vector = np.random.default_rng(int.from_bytes(digest, "little")).standard_normal(width)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def lexical_encoding(
    scenes: SceneSet, *, lemmatize: bool = True, idf: bool = True, by_rank: bool = True, seed: int = 0
) -> LexicalEncoding:
    """Encodes the labels of regions and the words of captions as unit vectors.

    Each word that occurs in a label has an axis of its own. A caption's other words are random unit vectors in a space
    that no label reaches. A region or word of weight w < 1 has w on its axis and sqrt(1 − w²) on an axis that only
    regions, or only words, use: so the vector stays a unit vector, and the inner product of a region and a word is the
    product of their weights if they are the same word, else 0.

    Args:
        scenes: N images with M captions.
        lemmatize: replace plural nouns by their singular (:func:`singular`), in labels and captions alike.
        idf: give a caption's word the weight sqrt(log((N + 1) / n) / log(N + 1)), where n images have it as a label.
            This counts labels only, never which caption belongs to which image.
        by_rank: give region r of R the weight 1 − r / (2R), as detectors list the regions they are surest of first.
        seed: for the vectors of words that are not labels.

    A label of several words is the normalised sum of their vectors. A text without words counts as the empty word.
    """
    sentences = [_words(caption, lemmatize) for caption in scenes.captions]
    texts = {label for scene in scenes for label in scene.labels}
    labels = {label: _words(label, lemmatize) for label in sorted(texts)}
    axis = {word: i for i, word in enumerate(sorted({word for words in labels.values() for word in words}))}
    width = len(axis) + _PRIVATE + 2
    region_only, word_only = width - 2, width - 1

    images = Counter(word for scene in scenes for word in {word for label in scene.labels for word in labels[label]})
    size = math.log(len(scenes) + 1)
    vectors: dict[str, np.ndarray] = {}
    for word in {word for sentence in sentences for word in sentence}:
        vector = np.zeros(width, dtype=np.float32)
        if word in axis:
            weight = math.sqrt(1 - math.log(images[word]) / size) if idf else 1.0
            vector[axis[word]], vector[word_only] = weight, math.sqrt(1 - weight**2)
        else:
            vector[len(axis) : region_only] = word_vector(word, _PRIVATE, seed)
        vectors[word] = vector

    on_axis = np.zeros((len(labels), width), dtype=np.float32)
    for row, words in zip(on_axis, labels.values(), strict=True):
        row[[axis[word] for word in words]] = 1 / math.sqrt(len(set(words)))
    number = {label: i for i, label in enumerate(labels)}
    lengths = np.array([len(scene.labels) for scene in scenes], dtype=np.int64)
    rank = np.concatenate([np.arange(n) / (2 * n) for n in lengths])
    weights = (1 - rank if by_rank else np.ones(len(rank))).astype(np.float32)
    regions = on_axis[[number[label] for scene in scenes for label in scene.labels]] * weights[:, None]
    regions[:, region_only] = np.sqrt(1 - weights**2)
    return LexicalEncoding(
        regions=regions,
        region_lengths=lengths,
        words=np.stack([vectors[word] for sentence in sentences for word in sentence]),
        word_lengths=np.array([len(sentence) for sentence in sentences], dtype=np.int64),
        caption_to_image=scenes.caption_to_image,
    )


def _words(text: str, lemmatize: bool) -> list[str]:
    words = tokenize(text) or [""]
    return [singular(word) for word in words] if lemmatize else words
