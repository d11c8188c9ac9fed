"""The reader of scene graphs, the lexical encoding and the generated scenes."""

from __future__ import annotations

import gzip
import json
import re

import numpy as np
import pytest

from cmsei_fast.data import lexical_encoding, read_scenes, synthetic_scenes, tokenize, word_vector
from cmsei_fast.data.lexical import singular

GOOD = {
    "image": "1.jpg",
    "labels": ["dog", "fence", "tree"],
    "boxes": [[0, 1.5, 10, 20], [3, 3, 3, 4], [5, 5, 6, 6]],
    "relations": [[0, "near", 1], [2, "behind", 1]],
    "captions": ["A dog near two fences.", "Trees!"],
}


def write(path, *records):
    lines = "".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(lines)
    return path


@pytest.mark.parametrize("name", ["s.jsonl", "s.jsonl.gz"])
def test_reads_what_was_written(tmp_path, name):
    other = GOOD | {"image": "2.jpg", "captions": ["One."], "relations": [], "more": 1}
    scenes = read_scenes(write(tmp_path / name, GOOD, "", other))
    assert len(scenes) == 2
    scene = scenes[0]
    assert (scene.image, scene.labels, scene.captions) == ("1.jpg", tuple(GOOD["labels"]), tuple(GOOD["captions"]))
    assert scene.relations == ((0, "near", 1), (2, "behind", 1))
    assert scene.boxes.dtype == np.float32
    np.testing.assert_array_equal(scene.boxes, GOOD["boxes"])
    assert not scene.boxes.flags.writeable
    assert scenes.captions == [*GOOD["captions"], "One."]
    assert scenes.caption_to_image.tolist() == [0, 0, 1]
    assert [s.image for s in scenes] == ["1.jpg", "2.jpg"]


def test_gzip_is_told_by_its_content(tmp_path):
    (tmp_path / "s.jsonl").write_bytes(gzip.compress(json.dumps(GOOD).encode()))
    assert len(read_scenes(tmp_path / "s.jsonl")) == 1


BAD = {
    "truncated line": (json.dumps(GOOD)[:50], "expected one JSON object, got malformed JSON at column 51:"),
    "not an object": ([1], "expected one JSON object, got a list"),
    "deep": ("[" * 100000, "expected one JSON object, got "),
    "missing key": ({k: v for k, v in GOOD.items() if k != "boxes"}, "missing key boxes"),
    "missing keys": ({"image": "1.jpg", "labels": ["a"], "boxes": [[0, 0, 1, 1]]}, "missing keys relations, captions"),
    "image number": (GOOD | {"image": 3}, "image: expected a string, got a number"),
    "no labels": (GOOD | {"labels": []}, "labels: expected a list of at least one string, got an empty list"),
    "label null": (GOOD | {"labels": ["dog", None, "tree"]}, "labels[1]: expected a string, got null"),
    "count": (GOOD | {"boxes": GOOD["boxes"][:2]}, "boxes: expected 3 (one per label), got 2"),
    "boxes object": (GOOD | {"boxes": {}}, "boxes: expected a list, got an object"),
    "box of three": (
        GOOD | {"boxes": [[0, 0, 1]] * 3},
        "boxes[0]: expected four numbers x1, y1, x2, y2, got [0, 0, 1]",
    ),
    "box of text": (
        GOOD | {"boxes": [[0, 0, 1, "1"]] * 3},
        "boxes[0]: expected four numbers x1, y1, x2, y2, got [0, 0, 1, '1']",
    ),
    "box nan": (
        GOOD | {"boxes": [[0, 0, 1, 1], [0, 0, 1, float("nan")], [0, 0, 1, 1]]},
        "boxes[1]: expected finite pixels with x1 <= x2 and y1 <= y2, got [0, 0, 1, nan]",
    ),
    "box turned": (
        GOOD | {"boxes": [[2, 0, 1, 1]] * 3},
        "boxes[0]: expected finite pixels with x1 <= x2 and y1 <= y2, got [2, 0, 1, 1]",
    ),
    "relations text": (GOOD | {"relations": "on"}, "relations: expected a list, got a string"),
    "relation out of range": (
        GOOD | {"relations": [[0, "on", 1], [0, "on", 3]]},
        "relations[1]: expected [subject, predicate, object] with indices from 0 to 2, got [0, 'on', 3]",
    ),
    "relation of flags": (
        GOOD | {"relations": [[True, "on", 1]]},
        "relations[0]: expected [subject, predicate, object] with indices from 0 to 2, got [True, 'on', 1]",
    ),
    "no captions": (GOOD | {"captions": []}, "captions: expected a list of at least one string, got an empty list"),
    "image of line 1": (GOOD, "image: expected each image once, got '1.jpg' as in line 1"),
    "caption list": (GOOD | {"captions": [["a"]]}, "captions[0]: expected a string, got a list"),
}


@pytest.mark.parametrize("case", BAD, ids=[name.replace(" ", "_") for name in BAD])
def test_bad_lines_are_named(tmp_path, case):
    record, message = BAD[case]
    path = write(tmp_path / "s.jsonl", GOOD, record)
    with pytest.raises(ValueError, match="line 2") as caught:
        read_scenes(path)
    assert str(caught.value).startswith(f"{path}, line 2: {message}")


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_scenes(tmp_path / "absent.jsonl")
    with pytest.raises(ValueError, match="expected at least one scene, got an empty file"):
        read_scenes(write(tmp_path / "empty.jsonl"))
    (tmp_path / "latin.jsonl").write_bytes(b'{"image": "\xe9"}\n')
    with pytest.raises(ValueError, match=r"line 1: expected UTF-8 text, got byte 0xe9 at column 12$"):
        read_scenes(tmp_path / "latin.jsonl")


def test_damaged_gzip(tmp_path):
    whole = gzip.compress("".join(json.dumps(GOOD | {"image": str(i)}) + "\n" for i in range(2000)).encode())
    path = tmp_path / "s.jsonl.gz"
    for damaged in (whole[:-2000], b"{}" + whole, whole[:-6] + b"\1" * 6):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"damaged gzip stream after line \d+: ") as caught:
            read_scenes(path)
        assert str(caught.value).startswith(str(path))
    path.write_bytes(whole[:3000] + b"\0" * 50 + whole[3050:])  # may still decode, to something that is no scene
    with pytest.raises(ValueError, match=r"line \d+: "):
        read_scenes(path)


def test_tokenize():
    assert tokenize("A man's dog, 2 well-known CAFÉS… (no_one)") == [
        "a", "man's", "dog", "2", "well", "known", "cafés", "no", "one",
    ]  # fmt: skip
    assert tokenize("?!") == []
    assert tokenize("the man\u2019s CAFE\u0301") == tokenize("the man's caf\u00e9") == ["the", "man's", "caf\u00e9"]


def test_singular():
    words = {"dogs": "dog", "men": "man", "women": "woman", "children": "child", "ladies": "lady", "boxes": "box"}
    words |= {"benches": "bench", "glass": "glass", "glasses": "glass", "bus": "bus", "his": "his", "as": "as"}
    assert {word: singular(word) for word in words} == words


def test_word_vectors_depend_on_word_and_seed_alone():
    np.testing.assert_array_equal(word_vector("dog", 16), word_vector("dog", 16))
    assert word_vector("dog", 16).dtype == np.float32
    assert not np.array_equal(word_vector("dog", 16), word_vector("cat", 16))
    assert not np.array_equal(word_vector("dog", 16), word_vector("dog", 16, seed=1))
    assert abs(word_vector("dog", 1024) @ word_vector("cat", 1024)) < 0.15


@pytest.fixture
def two_scenes(tmp_path):
    other = GOOD | {
        "image": "2.jpg",
        "labels": ["dog", "traffic light", "dog"],
        "captions": ["...", "The dogs at a light"],
    }
    return read_scenes(write(tmp_path / "s.jsonl", GOOD, other))


@pytest.mark.parametrize("plain", [True, False])
def test_lexical_encoding_matches_equal_words_only(two_scenes, plain):
    options = {"idf": False, "by_rank": False} if plain else {}
    got = lexical_encoding(two_scenes, **options)
    assert got.region_lengths.tolist() == [3, 3]
    assert got.word_lengths.tolist() == [5, 1, 1, 5]
    assert got.caption_to_image.tolist() == [0, 0, 1, 1]
    for rows in (got.regions, got.words):
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    regions = ["dog", "fence", "tree", "dog", "traffic light", "dog"]
    words = ["a", "dog", "near", "two", "fence", "tree", "", "the", "dog", "at", "a", "light"]
    same = np.array([[word in region.split() for word in words] for region in regions])
    products = got.regions @ got.words.T
    assert (products[~same] == 0).all()
    assert (products[same] > 0.05).all()
    if plain:
        expected = np.where(np.array([" " in region for region in regions])[:, None], 0.5**0.5, 1.0)
        np.testing.assert_allclose(products[same], np.broadcast_to(expected, same.shape)[same], rtol=1e-6)


def test_lexical_encoding_without_plurals(two_scenes):
    got = lexical_encoding(two_scenes, lemmatize=False)
    assert (got.regions @ got.words[4] == 0).all()  # "fences"


def test_idf_and_rank_weigh(two_scenes):
    products = (lambda x: x.regions @ x.words.T)(lexical_encoding(two_scenes))
    assert products[1, 4] > products[0, 1]  # "fence" is rarer than "dog"
    assert products[0, 1] > products[5, 1]  # the first dog is surer than the third region


def test_one_scene_can_be_encoded(tmp_path):
    got = lexical_encoding(read_scenes(write(tmp_path / "s.jsonl", GOOD)))
    assert np.isfinite(got.words).all()


def test_synthetic_captions_are_english():
    captions = [caption for scene in synthetic_scenes(60, seed=4).scenes for caption in scene.captions]
    assert len(captions) == 60 * 4 * 5
    assert not [caption for caption in captions if re.search(r"\ba [aeiou]", caption)]


def test_synthetic_scenes_are_reproducible():
    first, again = synthetic_scenes(3, seed=5), synthetic_scenes(3, seed=5)
    np.testing.assert_array_equal(first.features, again.features)
    assert first.scenes.captions == again.scenes.captions
    assert first.scenes.captions != synthetic_scenes(3, seed=6).scenes.captions
    assert first.scenes.captions == synthetic_scenes(np.int64(3), seed=np.int64(5)).scenes.captions


def test_groups_share_objects_and_differ_in_relations():
    made = synthetic_scenes(6, 3, 2, regions=7, width=32, captions_per_image=6, seed=1)
    assert made.features.shape == (36, 7, 32)
    assert made.features.dtype == np.float32
    assert len(made.scenes.captions) == 216
    for group in range(6):
        members = np.nonzero(made.group == group)[0]
        assert len(members) == 6
        assert len({(made.scenes[i].labels, made.attributes[i]) for i in members}) == 1
        assert len({(made.scenes[i].relations, made.where[i]) for i in members}) == 6
        for number, told in ((made.story, [s.relations for s in made.scenes]), (made.place, made.where)):
            for i in members:
                for j in members:
                    assert (number[i] == number[j]) == (told[i] == told[j])


def test_boxes_agree_with_the_places():
    made = synthetic_scenes(20, seed=2)
    seen = set()
    for scene, (first, place, second) in zip(made.scenes, made.where, strict=True):
        assert (scene.boxes[:, 2:] > scene.boxes[:, :2]).all()
        assert scene.boxes.min() >= 0
        dx, dy = (scene.boxes[second].reshape(2, 2).mean(0) - scene.boxes[first].reshape(2, 2).mean(0)).tolist()
        assert {"left of": dx > 0, "right of": dx < 0, "above": dy > 0, "below": dy < 0}[place]
        seen.add(place)
    assert len(seen) == 4


def test_captions_tell_the_relations():
    made = synthetic_scenes(5, seed=3)
    for scene, where in zip(made.scenes, made.where, strict=True):
        for caption in scene.captions:
            for subject, predicate, other in (*scene.relations, where):
                assert {scene.labels[subject], *predicate.split(), scene.labels[other]} <= set(tokenize(caption))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_groups": 0}, "n_groups: expected an integer >= 1, got 0"),
        ({"stories": 13}, "stories: expected an integer from 1 to 12, got 13"),
        ({"places": 5}, "places: expected an integer from 1 to 4, got 5"),
        ({"regions": 3}, "regions: expected an integer >= 4, got 3"),
        ({"width": 2.5}, "width: expected an integer >= 2, got 2.5"),
        ({"captions_per_image": True}, "captions_per_image: expected an integer >= 1, got True"),
        ({"noise": -1.0}, "noise: expected a finite number >= 0, got -1.0"),
        ({"noise": "much"}, "noise: expected a finite number >= 0, got 'much'"),
        ({"seed": -1}, "seed: expected an integer >= 0, got -1"),
    ],
)
def test_synthetic_scenes_bad_options(options, message):
    with pytest.raises(ValueError, match="expected") as caught:
        synthetic_scenes(**options)
    assert str(caught.value) == message
