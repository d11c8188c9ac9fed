"""Bottom-up-attention's tsv files."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from splits import files_in

from cmsei_fast import cli
from cmsei_fast.data import open_split
from cmsei_fast.data.convert import butd_split

COUNTS = {"12": 10, "7": 100, "1000092795": 36}
D = 6


def parts(name, count):
    rng = np.random.default_rng(int(name))
    low = rng.uniform(0, 200, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(0, 100, (count, 2))], axis=1).astype(np.float32)
    return boxes, rng.standard_normal((count, D)).astype(np.float32)


def line(name, count, **changes):
    boxes, features = parts(name, count)
    fields = {"image_id": name, "image_w": 500, "image_h": 375, "num_boxes": count}
    fields |= {"boxes": base64.b64encode(boxes).decode(), "features": base64.b64encode(features).decode()}
    return "\t".join(str(value) for value in (fields | changes).values()) + "\n"


def write(path, *lines):
    path.write_text("".join(lines or [line(name, count) for name, count in COUNTS.items()]))
    return path


def convert(out, *arguments):
    return cli.main(["convert", "butd", *map(str, arguments), "--out", str(out)])


def check(split, names):
    for i, name in enumerate(names):
        boxes, features = parts(name, COUNTS[name])
        rows = slice(split.offsets[i], split.offsets[i + 1])
        np.testing.assert_array_equal(split.features[rows], features)
        np.testing.assert_array_equal(split.boxes[rows], boxes)
        np.testing.assert_array_equal(split.sizes[i], [500, 375])


def test_convert_all(tmp_path, capsys):
    path, out = write(tmp_path / "a.tsv"), tmp_path / "o.h5"
    assert convert(out, path) == 0
    split = open_split(out)
    assert split.ids == tuple(COUNTS)
    assert split.n_captions == 0
    check(split, COUNTS)
    assert "3 images of 10 to 100 regions, 0 captions; features 146 × 6 float32; boxes" in capsys.readouterr().out


def test_convert_two_files_for_a_split_of_a_dataset(tmp_path):
    names = list(COUNTS)
    files = [write(tmp_path / f"{n}.tsv", line(n, COUNTS[n]), "\n") for n in names]
    images = [
        {"filename": "1000092795.jpg", "split": "test", "sentences": [{"raw": "A"}, {"raw": "B"}]},
        {"filename": "COCO_val2014_000000000012.jpg", "split": "test", "sentences": [{"raw": "C"}]},
        {"filename": "5.jpg", "split": "train", "sentences": [{"raw": "D"}]},
    ]
    dataset = tmp_path / "dataset_x.json"
    dataset.write_text(json.dumps({"images": images}))
    assert convert(tmp_path / "o.h5", *files, "--captions", dataset, "--split", "test", "--progress") == 0
    split = open_split(tmp_path / "o.h5")
    assert split.ids == ("1000092795.jpg", "COCO_val2014_000000000012.jpg")
    assert split.captions == ("A", "B", "C")
    assert split.caption_to_image.tolist() == [0, 0, 1]
    check(split, ["1000092795", "12"])
    options = ("--captions", dataset, "--split", "test", "--max-captions", 1)
    assert convert(tmp_path / "o.h5", *files, *options) == 0
    assert open_split(tmp_path / "o.h5").captions == ("A", "C")


def test_caption_files(tmp_path):
    path = write(tmp_path / "a.tsv")
    (tmp_path / "c.txt").write_text("A\nB\n")
    (tmp_path / "i.txt").write_text("7\n12\n")
    assert convert(tmp_path / "o.h5", path, "--captions", tmp_path / "c.txt", "--ids", tmp_path / "i.txt") == 0
    split = open_split(tmp_path / "o.h5")
    assert split.captions == ("A", "B")
    check(split, ["7", "12"])
    (tmp_path / "t.token").write_text("12.jpg#0\tA\n")
    assert convert(tmp_path / "o.h5", path, "--captions", tmp_path / "t.token") == 0
    check(open_split(tmp_path / "o.h5"), ["12"])


def test_lines_of_images_that_captions_do_not_name_may_be_damaged(tmp_path, capsys):
    damaged = line("7", 100)[:-9] + "\n"
    path = write(tmp_path / "a.tsv", damaged, line("12", COUNTS["12"]), damaged)
    (tmp_path / "t.token").write_text("12.jpg#0\tA\n")
    assert convert(tmp_path / "o.h5", path, "--captions", tmp_path / "t.token") == 0
    check(open_split(tmp_path / "o.h5"), ["12"])
    (tmp_path / "t.token").write_text("12.jpg#0\tA\n7.jpg#0\tB\n")
    assert convert(tmp_path / "p.h5", path, "--captions", tmp_path / "t.token") == 2
    assert "a.tsv, line 1: features: expected base64 of 100" in capsys.readouterr().err
    (tmp_path / "t.token").write_text("5.jpg#0\tA\n")
    assert convert(tmp_path / "p.h5", path, "--captions", tmp_path / "t.token") == 2
    assert "a.tsv: expected the 1 images of " in capsys.readouterr().err


def test_rows_across_images(tmp_path):
    rows = butd_split([write(tmp_path / "a.tsv")]).features
    expected = np.concatenate([parts(name, count)[1] for name, count in COUNTS.items()])
    for start, stop in [(0, 146), (5, 15), (10, 110), (109, 111), (3, 3), (145, 200)]:
        np.testing.assert_array_equal(rows[start:stop], expected[start:stop])
    with pytest.raises(ValueError, match="rows: expected a slice of step 1, got 2"):
        rows[::2]


whole = line("12", 10)
boxes10 = base64.b64encode(parts("12", 10)[0]).decode()
BAD = {
    "empty": ("", "a.tsv: expected at least one image, got an empty file"),
    "cut in a line": (
        line("7", 100) + whole[:-9],
        "a.tsv, line 2: features: expected base64 of 10 × Dx float32 numbers, got",
    ),
    "cut before features": (whole[:60], "a.tsv, line 1: expected 6 fields (image_id, image_w, "),
    "cut in boxes": (
        line("12", 10, boxes=boxes10[:-8]),
        "a.tsv, line 1: boxes: expected 10 × 4 float32 numbers (num_boxes)",
    ),
    "odd boxes": (line("12", 10, boxes=boxes10[:-7]), "a.tsv, line 1: boxes: expected base64, got"),
    "bytes of no number": (
        line("12", 10, boxes="AAA="),
        "a.tsv, line 1: boxes: expected base64 of float32 numbers, got 2 b",
    ),
    "count": (line("12", 10, num_boxes="ten"), "a.tsv, line 1: num_boxes: expected an integer > 0, got 'ten'"),
    "no boxes": (line("12", 10, num_boxes=0), "a.tsv, line 1: num_boxes: expected an integer > 0, got '0'"),
    "swapped size": (
        line("12", 10, image_w=375, image_h=200),
        "a.tsv, line 1: boxes: box ",
    ),
    "other width": (
        whole + line("7", 100, features=base64.b64encode(bytes(2000)).decode()),
        "a.tsv, line 2: features: expec",
    ),
    "NUL": (
        whole + line("7", 10, image_id="7\0"),
        r"a.tsv, line 2: image_id: expected text without NUL and lone surrogates, got '7\x00'",
    ),
    "twice": (whole + whole, "a.tsv: expected each image once, got '12' twice ("),
    "not base64": (
        line("12", 10, features="*" * 320),
        "a.tsv, line 1: features: expected base64, got",
    ),
    "nan": (
        line("12", 10, features=base64.b64encode(np.full((10, D), np.nan, np.float32)).decode()),
        "line 1: features[0] (image 12): expected finite numbers",
    ),
}


@pytest.mark.parametrize("before", [False, True], ids=["new", "old there"])
@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_bad_files(tmp_path, capsys, content, message, before):
    path, out = tmp_path / "a.tsv", tmp_path / "out.h5"
    path.write_text(content)
    if before:
        out.write_text("old")
    assert convert(out, path) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert files_in(tmp_path) == ["a.tsv", "out.h5"][: 1 + before]
    assert not before or out.read_text() == "old"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ids", "i.txt"], "--ids: expected a text file as --captions with it, got none"),
        (["--max-captions", "5"], "--max-captions: expected --captions with it, got none"),
        (
            ["--captions", "d.json", "--split", "a", "--ids", "i"],
            "--ids: expected a text file as --captions with it, got",
        ),
        (
            ["--captions", "d.txt", "--split", "test"],
            "--split: expected a dataset_*.json as --captions with it, got d.txt",
        ),
    ],
)
def test_bad_options(tmp_path, capsys, options, message):
    assert convert(tmp_path / "o.h5", write(tmp_path / "a.tsv"), *options) == 2
    assert message in capsys.readouterr().err
