"""The vocabulary and its JSON form."""

from __future__ import annotations

import json
import pickle

import pytest
from splits import files_in

from cmsei_fast.data import Vocabulary

CAPTIONS = ["A dog, a dog and a Cat.", "The cat sleeps."]
SPECIAL = ("<pad>", "<start>", "<end>", "<unk>")


def field_style(words):
    return {"word2idx": {w: i for i, w in enumerate(words)}, "idx2word": dict(enumerate(words)), "idx": len(words)}


def test_build_orders_by_count_then_alphabet():
    words = Vocabulary.build(CAPTIONS)
    assert words.words == (*SPECIAL, "a", "cat", "dog", "and", "sleeps", "the")
    assert len(words) == 10
    assert Vocabulary.build(CAPTIONS, min_count=2).words == (*SPECIAL, "a", "cat", "dog")
    assert "cat" in words
    assert "bird" not in words
    assert words.index["cat"] == 5


def test_encode():
    words = Vocabulary.build(CAPTIONS)
    assert words.encode("The DOG barks!") == [9, 6, 3]
    assert words.encode("The DOG barks!", start_end=True) == [1, 9, 6, 3, 2]
    assert words.encode("...") == [3]
    assert words.encode("", True) == [1, 3, 2]


def test_words_that_were_saved_as_they_were_typeset_are_found(tmp_path):
    """As of a model whose vocabulary was built without regard to how apostrophes and accents are typed."""
    saved = [*SPECIAL, "man’s", "dog’s", "dog's", "cafe\u0301", "’"]
    (tmp_path / "v.json").write_text(json.dumps(field_style(saved)))
    words = Vocabulary.load(tmp_path / "v.json")
    assert words.words == tuple(saved)
    for apostrophe in "'’":
        assert words.encode(f"a man{apostrophe}s dog{apostrophe}s caf\u00e9 cafe\u0301") == [3, 4, 6, 7, 7]
    assert words.knows("man's")
    assert not words.knows("'")
    assert "man's" not in words
    words.save(tmp_path / "again.json")
    assert Vocabulary.load(tmp_path / "again.json").encode("man's") == [4]
    assert Vocabulary(saved, str.split).encode("man's ' ’") == [3, 3, 8]


def test_another_tokenizer():
    words = Vocabulary.build(["a b<unk>", "<unk>"], tokenizer=str.split)
    assert words.words == (*SPECIAL, "a", "b<unk>")
    assert words.encode("b<unk> A") == [5, 3]


def test_round_trip(tmp_path):
    words = Vocabulary.build([*CAPTIONS, "Straße ☃"], tokenizer=str.split)
    words.save(tmp_path / "v.json")
    assert files_in(tmp_path) == ["v.json"]
    assert Vocabulary.load(tmp_path / "v.json", str.split).words == words.words
    assert pickle.loads(pickle.dumps(words)).encode("Straße") == words.encode("Straße")
    assert json.loads((tmp_path / "v.json").read_text()) == json.loads(json.dumps(field_style(words.words)))


def test_loads_what_the_field_writes(tmp_path):
    words = [*SPECIAL, "zebra", "a", "."]
    (tmp_path / "v.json").write_text(json.dumps(field_style(words)))
    assert Vocabulary.load(tmp_path / "v.json").words == tuple(words)


GOOD = field_style([*SPECIAL, "a"])
BAD = {
    "truncated": (json.dumps(GOOD)[:-3], ""),
    "not UTF-8": (b"\x80\x04}.", "expected a vocabulary as JSON, got no text (a pickle is not read)"),
    "list": ("[]", "expected one JSON object, got list"),
    "missing": ({"word2idx": {}}, "missing keys idx2word, idx"),
    "types": (GOOD | {"idx2word": []}, "word2idx, idx2word: expected two objects"),
    "count": (GOOD | {"idx": 6}, "idx: expected the number of words in word2idx and idx2word (5, 5), got 6"),
    "hole": (
        GOOD | {"idx2word": {"0": "<pad>", "1": "<start>", "2": "<end>", "3": "<unk>", "5": "a"}},
        "idx2word[4]: ",
    ),
    "disagree": (GOOD | {"word2idx": GOOD["word2idx"] | {"a": 3}}, "idx2word[4]: expected the word that word2idx"),
    "special": (field_style(["<unk>", *SPECIAL[:3]]), "words: expected <pad>, <start>, <end>, <unk> first, got <unk>"),
    "deep": ("[" * 100000, "expected "),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "v.json"
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"v\.json: ") as caught:
        Vocabulary.load(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_one_string_is_no_list_of_captions():
    with pytest.raises(TypeError, match=r"^captions: expected a sequence of sentences, got one string 'a dog'$"):
        Vocabulary.build("a dog")


def test_bad_words():
    with pytest.raises(ValueError, match="words: expected each word once, got 'a' twice"):
        Vocabulary([*SPECIAL, "a", "a"])
