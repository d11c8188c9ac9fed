"""Scene graphs as JSON lines to the file of a split."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from splits import files_in

from cmsei_fast import cli
from cmsei_fast.data import open_split

RECORD = {
    "image": "1.jpg",
    "labels": ["dog", "fence"],
    "boxes": [[0, 1.5, 10, 20], [3, 3, 30, 4]],
    "relations": [[0, "near", 1]],
    "captions": ["A dog near a fence.", "Dog!"],
}
NAMES = {"objects": ["fence", "cat", "dog"], "predicates": ["on", "near"]}


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records or [RECORD]))
    return path


def convert(path, out, *options):
    return cli.main(["convert", "jsonl", str(path), "--out", str(out), *map(str, options)])


def test_convert(tmp_path, capsys):
    path = tmp_path / "s.jsonl.gz"
    path.write_bytes(gzip.compress(write(tmp_path / "s.jsonl", RECORD, RECORD | {"image": "2.jpg"}).read_bytes()))
    assert convert(path, tmp_path / "o.h5") == 0
    split = open_split(tmp_path / "o.h5")
    assert split.ids == ("1.jpg", "2.jpg")
    assert split.captions == tuple(RECORD["captions"]) * 2
    assert split.object_names == ("dog", "fence")
    assert split.labels.tolist() == [0, 1, 0, 1]
    assert split.relations.tolist() == [[0, 0, 1]] * 2
    np.testing.assert_array_equal(split.boxes[:2], RECORD["boxes"])
    assert split.sizes.tolist() == [[30, 20]] * 2
    assert split.features is None
    expected = (
        "2 images of 2 regions, 4 captions; boxes; labels of 4 of 4 regions (2 names); 2 relations (1 predicates)"
    )
    assert expected in capsys.readouterr().out


@pytest.mark.parametrize("size", [{"size": [64, 48]}, {"width": 64, "height": 48.0}])
def test_names_and_sizes_that_are_given(tmp_path, size):
    (tmp_path / "labels.json").write_text(json.dumps(NAMES))
    path = write(tmp_path / "s.jsonl", RECORD | size)
    assert convert(path, tmp_path / "o.h5", "--names", tmp_path / "labels.json") == 0
    split = open_split(tmp_path / "o.h5")
    assert split.object_names == ("fence", "cat", "dog")
    assert split.labels.tolist() == [2, 0]
    assert split.relations.tolist() == [[0, 1, 1]]
    assert split.sizes.tolist() == [[64, 48]]


BAD = {
    "hundreds of digits": (
        [RECORD | {"boxes": [[0, 1, 10**400, 20], [3, 3, 30, 4]]}],
        None,
        "s.jsonl, line 1: boxes[0]: expected finite pixels",
    ),
    "no number": (
        [RECORD | {"boxes": [[0, 1, float("nan"), 20], [3, 3, float("inf"), 4]]}],
        None,
        "s.jsonl, line 1: ",
    ),
    "truncated": ([json.dumps(RECORD)[:50]], None, "s.jsonl, line 1: expected one JSON object, got"),
    "no scene": (["\n"], None, "s.jsonl"),
    "size": ([RECORD | {"size": [64]}], None, "s.jsonl, line 1: size: expected two numbers of pixels > 0, got [64]"),
    "outside": (
        [RECORD | {"size": [64, 12]}],
        None,
        "s.jsonl: image 1.jpg: boxes: box 0: expected x1 <= x2, y1 <= y2 within an image of 64 × 12 pixels, got",
    ),
    "parts of the sides": (
        [RECORD | {"size": [64, 48], "boxes": [[0, 0.1, 0.9, 0.4], [0.3, 0.3, 1, 1]]}],
        None,
        "s.jsonl: image 1.jpg: boxes: expected boxes in pixels of 64 × 48, got all boxes in its first pixel; "
        "where they are parts of its sides, multiply them by width, height, width, height",
    ),
    "height": (
        [RECORD | {"width": 3, "height": 0}],
        None,
        "s.jsonl, line 1: width, height: expected two numbers of pixels > 0, got [3, 0]",
    ),
    "label": ([RECORD | {"labels": ["dog", "cow"]}], NAMES, "s.jsonl: image 1.jpg: expected names of "),
    "predicate": ([RECORD | {"relations": [[0, "under", 1]]}], NAMES, "got 'under'"),
    "twice": (
        [RECORD, RECORD | {"image": "2.jpg"}, RECORD],
        None,
        "s.jsonl, line 3: image: expected each image once, got '1.jpg' as in line 1",
    ),
    "names": ([RECORD], {"objects": ["a"]}, "labels.json: predicates: expected a list of strings, got None"),
    "names twice": (
        [RECORD],
        NAMES | {"objects": ["dog", "fence", "dog"]},
        "labels.json: objects: expected each name once, got 'dog' twice",
    ),
    "NUL": (
        [RECORD, RECORD | {"image": "2.jpg", "captions": ["a", "a\0b"]}],
        None,
        r"s.jsonl, line 2: captions[1]: expected text without NUL and lone surrogates, got 'a\x00b'",
    ),
    "NUL in an image's name": ([RECORD | {"image": "1\0"}], None, "s.jsonl, line 1: image: expected text without NUL"),
    "NUL in a label": (
        [RECORD | {"labels": ["dog", "\0"]}],
        None,
        "s.jsonl, line 1: labels[1]: expected text without NUL",
    ),
    "NUL in a predicate": (
        [RECORD | {"relations": [[0, "a", 1], [0, "\0", 1]]}],
        None,
        "s.jsonl, line 1: relations[1]: expected text without NUL",
    ),
    "lone surrogate": (
        [RECORD | {"captions": ["\ud800"]}],
        None,
        r"s.jsonl, line 1: captions[0]: expected text without NUL and lone surrogates, got '\ud800'",
    ),
    "NUL in a name": (
        [RECORD],
        NAMES | {"objects": ["dog", "fence", "\0"]},
        "labels.json: objects[2]: expected text without NUL",
    ),
}


@pytest.mark.parametrize("before", [False, True], ids=["new", "old there"])
@pytest.mark.parametrize(("records", "names", "message"), BAD.values(), ids=BAD)
def test_bad_files(tmp_path, capsys, records, names, message, before):
    path, out, options = write(tmp_path / "s.jsonl", *records), tmp_path / "out.h5", []
    if names is not None:
        (tmp_path / "labels.json").write_text(json.dumps(names))
        options = ["--names", tmp_path / "labels.json"]
    if before:
        out.write_text("old")
    assert convert(path, out, *options) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert out.exists() == before
    assert not before or out.read_text() == "old"
    assert not [name for name in files_in(tmp_path) if name.endswith(".part")]


@pytest.mark.parametrize(
    "arguments", [[], ["jsonl"], ["jsonl", "x"], ["tar", "x", "--out", "o"], ["scan", "x", "--out", "o"]]
)
def test_usage_errors(arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(["convert", *arguments])
    assert caught.value.code == 2
