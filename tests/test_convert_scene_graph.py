"""Scene-Graph-Benchmark's predictions, alone and on the regions of another split; and the reader of large objects."""

from __future__ import annotations

import json

import numpy as np
import pytest
from splits import assert_same, files_in, random_split

from cmsei_fast import cli
from cmsei_fast.data import Split, open_split, write_split
from cmsei_fast.data.convert import attach, members, scene_graph_split
from cmsei_fast.data.convert.attach import seen_size

INFO = {
    "idx_to_files": ["/data/images/12.jpg", "/data/images/7.jpg"],
    "ind_to_classes": ["__background__", "dog", "fence", "tree"],
    "ind_to_predicates": ["__background__", "near", "on"],
}


def graphs():
    return {
        "0": {
            "bbox": [[0, 0, 60.5, 60], [120, 0, 300, 240], [10, 10, 20, 20]],
            "bbox_labels": [1, 3, 2],
            "bbox_scores": [0.9, 0.8, 0.1],
            "rel_pairs": [[0, 1], [1, 2], [2, 0], [0, 2]],
            "rel_labels": [2, 1, 1, 2],
            "rel_scores": [0.9, 0.5, 0.0, 0.25],
        },
        "1": {
            "bbox": [[5, 6, 7, 8]],
            "bbox_labels": [2],
            "bbox_scores": [0.5],
            "rel_pairs": [],
            "rel_labels": [],
            "rel_scores": [],
        },
    }


@pytest.fixture
def files(tmp_path):
    directory = tmp_path / "sgg"
    directory.mkdir()
    return write(directory, graphs())


def write(directory, prediction, info=INFO):
    paths = directory / "custom_prediction.json", directory / "custom_data_info.json"
    for path, value in zip(paths, (prediction, info), strict=True):
        path.write_text(value if isinstance(value, str) else json.dumps(value))
    return paths


def convert(files, out, *options):
    return cli.main(["convert", "scene-graph", *map(str, files), "--out", str(out), *map(str, options)])


def test_convert(files, tmp_path, capsys):
    assert convert(files, tmp_path / "o.h5", "--progress") == 0
    split = open_split(tmp_path / "o.h5")
    assert split.ids == ("12.jpg", "7.jpg")
    assert split.offsets.tolist() == [0, 3, 4]
    assert split.object_names == ("dog", "fence", "tree")
    assert split.labels.tolist() == [0, 2, 1, 1]
    np.testing.assert_array_equal(split.label_scores, np.float32([0.9, 0.8, 0.1, 0.5]))
    assert split.predicate_names == ("near", "on")
    assert split.relations.tolist() == [[0, 1, 1], [1, 0, 2], [0, 1, 2]]  # that of score 0 is left out
    np.testing.assert_array_equal(split.relation_scores, np.float32([0.9, 0.5, 0.25]))
    assert split.relation_offsets.tolist() == [0, 3, 3]
    assert split.boxes[0].tolist() == [0, 0, 60.5, 60]
    assert split.sizes.tolist() == [[300, 240], [7, 8]]
    assert split.features is None
    captured = capsys.readouterr()
    assert "labels of 4 of 4 regions (3 names); 3 relations (2 predicates)" in captured.out
    assert "scene graphs: 100%" in captured.err


def test_names_without_a_background(files):
    info = INFO | {"ind_to_classes": ["dog", "fence", "tree"], "ind_to_predicates": ["near", "on"]}
    assert_same(
        scene_graph_split(*write(files[0].parent, graphs(), info)), scene_graph_split(*write(files[0].parent, graphs()))
    )


def test_fewer_boxes_and_relations(files):
    assert scene_graph_split(*files, max_relations=2).relations.tolist() == [[0, 1, 1], [1, 0, 2]]
    assert scene_graph_split(*files, min_score=0.4).relations.tolist() == [[0, 1, 1], [1, 0, 2]]
    split = scene_graph_split(*files, max_boxes=2, max_relations=None)
    assert split.offsets.tolist() == [0, 2, 3]
    assert split.relations.tolist() == [[0, 1, 1]]


def test_captions_choose_the_images(files, tmp_path):
    (tmp_path / "t.txt").write_text("7.jpg\tA fence .\n")
    assert convert(files, tmp_path / "o.h5", "--captions", tmp_path / "t.txt") == 0
    split = open_split(tmp_path / "o.h5")
    assert (split.ids, split.captions, split.labels.tolist()) == (("7.jpg",), ("A fence .",), [1])


@pytest.mark.parametrize(
    ("size", "seen"),
    [
        ((500, 375), (800, 600)),
        ((375, 500), (600, 800)),
        ((640, 200), (998, 312)),
        ((600, 600), (600, 600)),
        ((300, 500), (600, 1000)),
    ],
)
def test_seen_size(size, seen):
    assert seen_size(*size) == seen


def base(boxes, size=(500, 375), name="12"):
    boxes = np.array(boxes, dtype=np.float32)
    return Split(
        ids=(name,),
        offsets=np.array([0, len(boxes)]),
        captions=("A dog .",),
        caption_to_image=np.array([0]),
        features=np.arange(2 * len(boxes), dtype=np.float32).reshape(-1, 2),
        boxes=boxes,
        sizes=np.array([size], dtype=np.float32),
    )


def test_onto_regions_of_another_detector(files, tmp_path, capsys):
    """The detector saw 800 × 600, so its boxes are 1.6 times those of the image."""
    regions = [[400, 300, 410, 310], [74, 0, 188, 150], [0, 0, 37.5, 37.5]]
    write_split(tmp_path / "base.h5", base(regions))
    assert convert(files, tmp_path / "o.h5", "--onto", tmp_path / "base.h5") == 0
    split = open_split(tmp_path / "o.h5")
    assert split.labels.tolist() == [-1, 2, 0]
    assert split.relations.tolist() == [[2, 1, 1]]
    np.testing.assert_array_equal(split.relation_scores, np.float32([0.9]))
    np.testing.assert_array_equal(split.label_scores, np.float32([0, 0.8, 0.9]))
    assert split.captions == ("A dog .",)
    np.testing.assert_array_equal(split.features[:], np.arange(6).reshape(3, 2))
    assert "labels of 2 of 3 regions" in capsys.readouterr().out
    assert convert(files, tmp_path / "base.h5", "--onto", tmp_path / "base.h5", "--overlap", "1") == 0  # onto itself
    assert open_split(tmp_path / "base.h5").labels.tolist() == [-1, -1, -1]


def test_attaching_a_split_to_itself_changes_nothing():
    split = random_split(6, seed=2)
    low = np.concatenate([np.arange(n) * 200.0 for n in np.diff(split.offsets)])  # apart from each other
    boxes = np.stack([low, low * 0, low + 50, low * 0 + 40], axis=1).astype(np.float32)
    split = random_split(6, seed=2, boxes=boxes, labels=np.abs(split.labels))
    got = attach(split, split, scaled=False)
    np.testing.assert_array_equal(got.labels, split.labels)
    for i in range(6):
        mine, theirs = edges(got, i), edges(split, i)
        assert mine <= theirs
        assert {edge[:3] for edge in mine} == {edge[:3] for edge in theirs}


def edges(split, image):
    """Relations of an image and their confidence, but those of a region with itself."""
    rows = slice(split.relation_offsets[image], split.relation_offsets[image + 1])
    triplets = zip(split.relations[rows].tolist(), split.relation_scores[rows].tolist(), strict=True)
    return {(*triplet, score) for triplet, score in triplets if triplet[0] != triplet[2]}


def test_of_boxes_of_one_region_the_best_gives_the_label(files):
    graph = graphs()["0"] | {"bbox": [[0, 0, 100, 100], [0, 0, 100, 90], [0, 0, 50, 100]]}
    graphs_split = scene_graph_split(*write(files[0].parent, {"0": graph}))
    got = attach(base([[0, 0, 100, 92]]), graphs_split, scaled=False)
    assert got.labels.tolist() == [2]
    assert got.relations.shape == (0, 3)  # both ends are one region


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda: (base([[0, 0, 1, 1]], name="5"), {}),
            "graphs: expected one for each image, got none for 1 of 1, '5' the first; numbers get the names of "
            "their files by convert scan --id-mapping",
        ),
        (
            lambda: (base([[0, 0, 1, 1]], name="e.jpg"), {}),
            "graphs: expected one for each image, got none for 1 of 1, 'e.jpg' the first",
        ),
        (lambda: (base([[0, 0, 1, 1]]), {"overlap": 0.0}), "overlap: expected a number > 0 and <= 1, got 0.0"),
        (lambda: (random_split(boxes=None), {}), "base: expected a split with boxes, got one without"),
    ],
)
def test_what_cannot_be_attached(files, change, message):
    split, options = change()
    with pytest.raises(ValueError, match="expected") as caught:
        attach(split, scene_graph_split(*files), **options)
    assert str(caught.value) == message


@pytest.mark.parametrize("options", [["--overlap", "0.9"], ["--unscaled"]])
def test_how_boxes_are_matched_goes_with_onto(files, tmp_path, capsys, options):
    assert convert(files, tmp_path / "o.h5", *options) == 2
    assert f"{options[0]}: expected none without --onto (no boxes are matched), got one" in capsys.readouterr().err


def test_onto_a_split_without_boxes_is_told_before_anything_is_read(tmp_path, capsys):
    write_split(tmp_path / "base.h5", random_split(boxes=None))
    absent = tmp_path / "prediction.json", tmp_path / "info.json"
    assert convert(absent, tmp_path / "o.h5", "--onto", tmp_path / "base.h5") == 2
    assert "--onto: expected a split with boxes, to find its regions by, got " in capsys.readouterr().err


def test_onto_excludes_captions(files, tmp_path, capsys):
    assert convert(files, tmp_path / "o.h5", "--onto", "a.h5", "--captions", "b.txt") == 2
    assert "--captions: expected none with --onto, whose file has captions" in capsys.readouterr().err


def graph(**changes):
    return {"0": {k: v for k, v in (graphs()["0"] | changes).items() if v is not None}}


whole = json.dumps(graphs())
BAD = {
    "truncated": (
        whole[:-30],
        "custom_prediction.json: expected an object of objects, got malformed or truncated JSON: ",
    ),
    "hundreds of digits": (
        whole.replace("60.5", "9" * 400),
        "bbox: expected a list of numbers, got [[0, 0, 999",
    ),
    "end missing": (whole[:-1], "malformed or truncated JSON: it ends at character "),
    "empty": ("", "malformed or truncated JSON: it ends at character 0"),
    "malformed": (
        whole.replace("[[0, 0, 60.5", "[[0, 0; 60.5"),
        "malformed or truncated JSON: Expecting ',' delimiter at char",
    ),
    "more": (whole + "x", "malformed or truncated JSON: expected its end at character "),
    "list": ("[1]", "malformed or truncated JSON: expected { at character 0, got '['"),
    "values": ('{"0": 3}', "malformed or truncated JSON: expected { at character 6, got '3'"),
    "deep": ('{"0": {"a": ' + "[" * 100000, "custom_prediction.json: expected an object of objects, got "),
    "no image": ({}, "custom_prediction.json: expected at least one image, got none"),
    "index": ({"2": graphs()["0"]}, "image '2': expected the number of one of 2 images (idx_to_files)"),
    "key": ({"a": graphs()["0"]}, "image 'a': expected the number of one of 2 images (idx_to_files)"),
    "twice": (whole[:-1] + ", " + whole[1:], "image '0': expected each image once, got it twice"),
    "missing": (graph(rel_pairs=None), "image '0': missing key rel_pairs"),
    "no boxes": (graph(bbox=[]), "image '0': bbox: expected at least one box, got none"),
    "box of three": (graph(bbox=[[1, 2, 3]] * 3), "image '0': bbox: expected shape (3, 4), got (3, 3)"),
    "ragged": (graph(bbox=[[1, 2, 3, 4], [1]]), "image '0': bbox: expected a list of numbers, got [[1, 2, 3, 4], [1]]"),
    "box of text": (graph(bbox="abc"), "image '0': bbox: expected a list of numbers, got 'abc'"),
    "inside out": (
        graph(bbox=[[5, 0, 1, 1]] * 3),
        "image '0': bbox[0]: expected finite pixels with x1 <= x2 and y1 <= y2, got [5.0, 0.0, 1.0, 1.0]",
    ),
    "label 0": (graph(bbox_labels=[1, 0, 2]), "image '0': bbox_labels: expected whole numbers from 1 to 3, got 0"),
    "labels": (graph(bbox_labels=[1, 2]), "image '0': bbox_labels: expected shape (3,), got (2,)"),
    "pair": (graph(rel_pairs=[[0, 3]] * 4), "image '0': rel_pairs: expected whole numbers from 0 to 2, got 3"),
    "predicate": (graph(rel_labels=[1, 1, 1, 3]), "image '0': rel_labels: expected whole numbers from 1 to 2, got 3"),
    "fraction": (
        graph(rel_labels=[1, 1, 1, 1.5]),
        "image '0': rel_labels: expected whole numbers from 1 to 2, got 1.5",
    ),
    "score": (graph(rel_scores=[1, 1, 1, 7]), "image '0': bbox_scores, rel_scores: expected finite confidences"),
}


@pytest.mark.parametrize("before", [False, True], ids=["new", "old there"])
@pytest.mark.parametrize(("prediction", "message"), BAD.values(), ids=BAD)
def test_bad_predictions(files, tmp_path, capsys, prediction, message, before):
    out = tmp_path / "out.h5"
    if before:
        out.write_text("old")
    assert convert(write(files[0].parent, prediction), out) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert files_in(tmp_path) == ["out.h5", "sgg"][not before :]
    assert not before or out.read_text() == "old"


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ("{", "custom_data_info.json: expected one JSON object, got malformed JSON: "),
        (INFO | {"ind_to_classes": 3}, "custom_data_info.json: ind_to_classes: expected a list of strings, got 3"),
        ({}, "custom_data_info.json: idx_to_files: expected a list of strings, got None"),
    ],
)
def test_bad_names(files, tmp_path, capsys, info, message):
    assert convert(write(files[0].parent, graphs(), info), tmp_path / "o.h5") == 2
    assert message in capsys.readouterr().err
    assert files_in(tmp_path) == ["sgg"]


@pytest.mark.parametrize("block", [1, 7, 100, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_members_in_blocks(tmp_path, monkeypatch, block, indent):
    monkeypatch.setattr(members, "_BLOCK", block)
    value = {"a": {"b": [1, -2.5e3, True, None, 'x"y' * 40]}, "é": {}, "c": {"d": {"e": [[], {}]}}, "long" * 50: {}}
    path = tmp_path / "m.json"
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False), encoding="utf-8-sig")
    counts = []
    assert dict(members.members(path, counts.append)) == value
    assert sum(counts) == len(path.read_text(encoding="utf-8-sig"))
    path.write_text("{ }")
    assert dict(members.members(path)) == {}


@pytest.mark.parametrize("block", [1, 1 << 20])
def test_every_truncation_is_found(tmp_path, monkeypatch, block):
    monkeypatch.setattr(members, "_BLOCK", block)
    text = json.dumps({"0": {"a": [1.5, "x", {}]}, "1": {}})
    for kept in range(len(text)):
        (tmp_path / "m.json").write_text(text[:kept])
        with pytest.raises(
            ValueError, match=r"m\.json: expected an object of objects, got malformed or truncated JSON: "
        ):
            list(members.members(tmp_path / "m.json"))


def test_members_that_are_not_text(tmp_path):
    (tmp_path / "m.json").write_bytes(b'{"\xff": {}}')
    with pytest.raises(ValueError, match=r"m\.json: expected an object of objects"):
        list(members.members(tmp_path / "m.json"))
