"""Readers of pretrained word vectors."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from cmsei_fast.data import Vocabulary
from cmsei_fast.data.word_vectors import read_word_vectors
from cmsei_fast.model.words import WordEmbedding

TEXT = "the 1 2 3\nat name@domain.com 4 5 6\n. . . 7 8 9\nat 0.5 -1e-2 0 \n"
VALUES = {"the": [1, 2, 3], "at name@domain.com": [4, 5, 6], ". . .": [7, 8, 9], "at": [0.5, -0.01, 0]}


def write(path, text: str):
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("header", ["", "4 3\n"], ids=["glove", "word2vec"])
@pytest.mark.parametrize("name", ["v.txt", "v.txt.gz"])
def test_reads_text(tmp_path, name, header):
    found = read_word_vectors(write(tmp_path / name, header + TEXT))
    assert list(found) == list(VALUES)
    for word, vector in found.items():
        assert vector.dtype == "float32"
        assert vector.tolist() == pytest.approx(VALUES[word], rel=1e-6)


@pytest.mark.parametrize("form", ["v.txt", "headed.txt", "v.json"])
def test_keeps_what_is_asked_for(tmp_path, form):
    header = "4 3\n" if form == "headed.txt" else ""
    record = {"words": list(VALUES), "dimensions": 3, "vectors": VALUES}
    path = write(tmp_path / form, json.dumps(record) if form == "v.json" else header + TEXT)
    assert list(read_word_vectors(path, words={"at", "absent"})) == ["at"]
    assert list(read_word_vectors(path, limit=1)) == ["the"]
    assert list(read_word_vectors(path, words={"at"}, limit=1)) == ["the", "at"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("the 1 2\ndog 1\n", ", line 2: expected 2 finite numbers, got 1"),
        ("the 1 2\ndog 1 2 3\n", ", line 2: expected 2 finite numbers, got 3"),
        ("the 1 2\ndog 1 x\n", ", line 2: expected a word and numbers, got 'dog 1 x\\n'"),
        ("the 1 2\ndog 1 nan\n", ", line 2: expected 2 finite numbers, got nan"),
        ("the\n", ", line 1: expected some finite numbers, got 0"),
        ("", ": expected word vectors, got an empty file"),
    ],
    ids=["short", "long", "text", "nan", "word alone", "empty"],
)
def test_bad_text(tmp_path, text, message):
    path = write(tmp_path / "v.txt", text)
    with pytest.raises(ValueError, match="expected") as caught:
        read_word_vectors(path)
    assert str(caught.value) == f"{path}{message}"


def test_bytes_that_are_no_vectors_are_told_with_the_file(tmp_path):
    whole = gzip.compress(TEXT.encode() * 99)
    for name, content, message in (
        ("v.txt", b"the 1 2\n\xff 3 4\n", "expected UTF-8 text, got 'utf-8' codec"),
        ("v.txt.gz", TEXT.encode(), "damaged gzip stream: Not a gzipped file"),
        ("cut.txt.gz", whole[:-20], "damaged gzip stream: Compressed file ended"),
        ("bits.txt.gz", whole[:10] + b"\xff" * 20, "damaged gzip stream: "),
        ("v.json", b"[" * 100_000, "expected one JSON object, got JSON nested too deeply"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"expected|damaged") as caught:
            read_word_vectors(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: {message}")


def test_json(tmp_path):
    record = {"words": ["a", "b"], "dimensions": 2, "vectors": {"a": [1, 2, 7], "b": [3, 4, 8]}}
    path = write(tmp_path / "v.json", json.dumps(record))
    assert {w: v.tolist() for w, v in read_word_vectors(path).items()} == {"a": [1, 2], "b": [3, 4]}
    with pytest.raises(ValueError, match="expected words, dimensions and vectors as JSON"):
        read_word_vectors(write(tmp_path / "bad.json", json.dumps({"words": []})))


@pytest.mark.parametrize(("words", "got"), [(["dog"], "1"), (["dog", "cat"], "2, all the same")])
def test_vectors_that_centring_leaves_nothing_of_are_refused(words, got):
    """They had no length to be scaled by, and training said that its loss was NaN."""
    embedding = WordEmbedding(Vocabulary.build(["a dog", "a cat"]), 4, 8)
    before = embedding.trained.detach().clone()
    with pytest.raises(
        ValueError, match=f"^vectors: expected at least two that differ for the vocabulary's words, got {got}$"
    ):
        embedding.load({word: np.float32([1, 2, 3]) for word in words})
    assert embedding.trained.equal(before)
    assert embedding.load({"dog": np.float32([1, 2]), "cat": np.float32([1, 3])}) == 2
    assert embedding.trained.isfinite().all()
