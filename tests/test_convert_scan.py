"""SCAN's files, with GSMN's and CAMERA's boxes: one entry an image or a copy a caption."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from splits import files_in

from cmsei_fast import cli
from cmsei_fast.data import open_split
from cmsei_fast.data.convert import scan_split

N, R, D = 4, 3, 8


@pytest.fixture
def source(tmp_path):
    directory = tmp_path / "f30k_precomp"
    directory.mkdir()
    return directory


def features(seed=0):
    return np.random.default_rng(seed).standard_normal((N, R, D)).astype(np.float32)


def write(directory, split="test", *, copies=1, ids="copies", boxes=None, images=None, captions=N * 5):
    images = features() if images is None else images
    np.save(directory / f"{split}_ims.npy", np.repeat(images, copies, axis=0))
    (directory / f"{split}_caps.txt").write_text("".join(f"Caption {i} .\n" for i in range(captions)))
    if ids:
        lines = [f"10{i}" for i in range(N) for _ in range(5 if ids == "copies" else 1)]
        (directory / f"{split}_ids.txt").write_text("\n".join(lines) + "\n")
    if boxes:
        names = {"gsmn": ("_ims_bbx", "_ims_size"), "camera": ("_boxes", "_img_sizes")}[boxes]
        for name, array in zip(names, (box_array(), size_array()), strict=True):
            np.save(directory / f"{split}{name}.npy", np.repeat(array, copies, axis=0))
    return directory


def box_array():
    rng = np.random.default_rng(1)
    low = rng.uniform(0, 200, (N, R, 2))
    return np.concatenate([low, low + rng.uniform(0, 100, (N, R, 2))], axis=2).astype(np.float32)


def size_array():
    return np.array([[500, 375], [375, 500], [333, 500], [500, 300]])


def convert(directory, out, *options):
    return cli.main(["convert", "scan", str(directory), "--split", "test", "--out", str(out), *options])


@pytest.mark.parametrize("boxes", [None, "gsmn", "camera"])
@pytest.mark.parametrize("copies", [1, 5])
@pytest.mark.parametrize("ids", ["copies", "once", None])
def test_convert(source, tmp_path, capsys, copies, ids, boxes):
    out = tmp_path / "test.h5"
    assert convert(write(source, copies=copies, ids=ids, boxes=boxes), out) == 0
    split = open_split(out)
    np.testing.assert_array_equal(split.features[:], features().reshape(-1, D))
    assert split.features.dtype == np.float32
    assert split.offsets.tolist() == [0, 3, 6, 9, 12]
    assert split.captions == tuple(f"Caption {i} ." for i in range(20))
    assert split.caption_to_image.tolist() == sorted([*range(N)] * 5)
    assert split.ids == (tuple(f"10{i}" for i in range(N)) if ids else ("0", "1", "2", "3"))
    if boxes is None:
        assert split.boxes is None
        assert split.sizes is None
    else:
        np.testing.assert_array_equal(split.boxes, box_array().reshape(-1, 4))
        np.testing.assert_array_equal(split.sizes, size_array())
    assert f"{out}: 4 images of 3 regions, 20 captions; features 12 × 8 float32" in capsys.readouterr().out


@pytest.mark.parametrize("boxes", [None, "gsmn"])
@pytest.mark.parametrize("copies", [1, 5])
def test_rows_of_zeros_that_fill_an_entry_are_no_regions(source, tmp_path, capsys, copies, boxes):
    images = features()
    images[0, 0], images[1, 2:], images[2, 1:], images[3] = (
        0,
        0,
        0,
        0,
    )  # the first begins with one, the last has no other
    write(source, copies=copies, ids=None, boxes=boxes, images=images)
    assert convert(source, tmp_path / "test.h5") == 0
    assert "4 images of 1 to 3 regions" in capsys.readouterr().out
    split = open_split(tmp_path / "test.h5")
    kept = np.arange(R) < np.array([3, 2, 1, 3])[:, None]
    assert np.diff(split.offsets).tolist() == kept.sum(1).tolist()
    np.testing.assert_array_equal(split.features[:], images[kept])
    if boxes:
        np.testing.assert_array_equal(split.boxes, box_array()[kept])


def test_features_are_mapped_and_made_smaller(source, tmp_path):
    images = features().astype(np.float64)
    write(source, images=images)
    assert isinstance(scan_split(source, "test").features.shape, tuple)
    assert convert(source, tmp_path / "o.h5", "--dtype", "float16") == 0
    np.testing.assert_array_equal(open_split(tmp_path / "o.h5").features[:], images.reshape(-1, D).astype(np.float16))


def test_another_number_of_captions_is_told_with_the_flag_that_fits(source, tmp_path, capsys):
    write(source, captions=N * 7, ids=None)
    assert convert(source, tmp_path / "o.h5") == 2
    assert capsys.readouterr().err.endswith(f"got {N * 7}; --captions-per-image 7 would fit\n")
    assert convert(source, tmp_path / "o.h5", "--captions-per-image", "7") == 0


def test_features_too_large_for_float16_are_refused(source, tmp_path, capsys):
    write(source, images=features() * np.float32(1e6))
    assert convert(source, tmp_path / "o.h5", "--dtype", "float16") == 2
    assert "expected finite numbers of float16 (at most 65504), got" in capsys.readouterr().err
    assert files_in(tmp_path) == ["f30k_precomp"]


def test_one_caption_an_image(source):
    split = scan_split(write(source, captions=4, ids=None), "test")
    assert split.caption_to_image.tolist() == [0, 1, 2, 3]
    split = scan_split(write(source, captions=8, ids=None), "test", captions_per_image=2)
    assert split.caption_to_image.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n", b"\r\n \r\n\t\n\n"])
def test_blank_lines_at_the_end_are_no_captions(source, end):
    write(source)
    for name in ("test_caps.txt", "test_ids.txt"):
        path = source / name
        path.write_bytes(path.read_bytes().removesuffix(b"\n") + end)
    split = scan_split(source, "test")
    assert split.captions == tuple(f"Caption {i} ." for i in range(N * 5))
    assert split.ids == tuple(f"10{i}" for i in range(N))


def test_a_blank_line_between_is_a_caption_without_a_word(source):
    path = write(source) / "test_caps.txt"
    path.write_text(path.read_text().replace("Caption 3 .", ""))
    captions = scan_split(source, "test").captions
    assert captions[2:5] == ("Caption 2 .", "", "Caption 4 .")


def test_one_image(source):
    np.save(source / "test_ims.npy", features()[:1])
    (source / "test_caps.txt").write_text("a\n")
    assert len(scan_split(source, "test")) == 1


def unlike_copies(directory):
    images = np.repeat(features(), 5, axis=0)
    images[13] += 1
    np.save(directory / "test_ims.npy", images)


def copies_with_nan(directory):
    images = np.repeat(features(), 5, axis=0)
    images[10:15, 0, 0] = np.nan
    np.save(directory / "test_ims.npy", images)


def short(name, kept):
    def damage(directory):
        path = directory / name
        path.write_bytes(path.read_bytes()[:kept])

    return damage


def save(name, array):
    def damage(directory):
        np.save(directory / name, array, allow_pickle=array.dtype == object)

    return damage


def text(name, content):
    def damage(directory):
        (directory / name).write_bytes(content)

    return damage


pickled = np.array([{"image_w": 5, "image_h": 4}] * N)
outside = box_array() + 400
BAD = {
    "no features": (lambda d: (d / "test_ims.npy").unlink(), "test_ims.npy"),
    "no captions": (lambda d: (d / "test_caps.txt").unlink(), "test_caps.txt"),
    "truncated features": (short("test_ims.npy", -4), "test_ims.npy: truncated or damaged .npy file: "),
    "truncated head": (short("test_ims.npy", 40), "test_ims.npy: truncated or damaged .npy file: "),
    "empty features": (short("test_ims.npy", 0), "test_ims.npy: truncated or damaged .npy file: "),
    "text as features": (text("test_ims.npy", b"hello" * 40), "test_ims.npy: truncated or damaged .npy file: "),
    "garbled head": (
        lambda d: text("test_ims.npy", (d / "test_ims.npy").read_bytes().replace(b"'shape'", b"'sh(pe'"))(d),
        "test_ims.npy: truncated or damaged .npy file: ",
    ),
    "a head that is calculated": (
        text("test_ims.npy", b"\x93NUMPY\x01\x00\x03\x001+1"),
        "test_ims.npy: truncated or damaged .npy file: its head is no literal",
    ),
    "head without end": (
        lambda d: text("test_ims.npy", (d / "test_ims.npy").read_bytes().replace(b"}", b" "))(d),
        "test_ims.npy: truncated or damaged .npy file: ",
    ),
    "objects": (
        save("test_ims.npy", pickled),
        "test_ims.npy: expected an array of numbers, got pickled Python objects",
    ),
    "two dimensions": (
        save("test_ims.npy", np.zeros((4, 3))),
        "test_ims.npy: expected a full array of 3 dimensions, got",
    ),
    "strings": (save("test_ims.npy", np.array([["a"]])), "test_ims.npy: expected numbers, got <U1"),
    "not a number": (
        save("test_ims.npy", np.full((N, R, D), np.nan, np.float32)),
        "test_ims.npy: features[0] (image 100): expected finite numbers of float32, got nan",
    ),
    "unlike copies": (unlike_copies, "test_ims.npy: expected 5 copies of each image, got image 13 unlike image 10"),
    "copies with a NaN": (copies_with_nan, "(image 102): expected finite numbers of float32, got nan"),
    "captions missing": (
        text("test_caps.txt", b"a\n" * 19),
        "test_caps.txt: expected 4 captions or 5 × 4 (test_ims.npy has 4 images), got 19",
    ),
    "a caption in two": (
        text("test_caps.txt", b"a\n" * 3 + b"\n" + b"a\n" * 17 + b"\n"),
        "test_caps.txt: expected 4 captions or 5 × 4 (test_ims.npy has 4 images), got 21 (line 4 is blank)",
    ),
    "blank text": (text("test_caps.txt", b"\n\n"), "test_caps.txt: expected at least one line, got an empty file"),
    "no text": (text("test_caps.txt", b""), "test_caps.txt: expected at least one line, got an empty file"),
    "latin-1": (text("test_caps.txt", b"a\n\xe9\n" * 10), "test_caps.txt, line 2: expected UTF-8 text, got byte 0xe9"),
    "NUL": (
        text("test_caps.txt", b"a\nb\0c\n" * 10),
        r"test_caps.txt, line 2: expected text without NUL and lone surrogates, got 'b\x00c'",
    ),
    "ids missing": (text("test_ids.txt", b"1\n2\n3\n"), "test_ids.txt: expected 4 lines or 5 × 4, got 3"),
    "ids mixed": (
        text("test_ids.txt", b"1\n2\n" * 10),
        "test_ids.txt, line 2: expected each name 5 times in a row, got '2' after '1'",
    ),
    "blank id": (
        text("test_ids.txt", b"1\n\n2\n3\n4\n"),
        "test_ids.txt: expected 4 lines or 5 × 4, got 5 (line 2 is blank)",
    ),
    "image twice": (
        text("test_ids.txt", b"1\n2\n3\n2\n"),
        "test_ids.txt, line 4: expected each image once, got '2' as in line 2",
    ),
    "image twice, a line a caption": (
        text("test_ids.txt", b"".join(b"%d\n" % i * 5 for i in (1, 2, 3, 1))),
        "test_ids.txt, line 16: expected each image once, got '1' as in line 1",
    ),
    "no sizes": (lambda d: (d / "test_ims_size.npy").unlink(), "test_ims_size.npy"),
    "pickled sizes": (
        save("test_ims_size.npy", pickled),
        "test_ims_size.npy: expected an array of numbers, got pickled Python objects (not read); if you trust the file",
    ),
    "boxes of others": (
        save("test_ims_bbx.npy", box_array()[:, :2]),
        "test_ims_bbx.npy: expected shape (4, 3, 4), one",
    ),
    "truncated boxes": (short("test_ims_bbx.npy", 150), "test_ims_bbx.npy: truncated or damaged .npy file: "),
    "boxes outside": (
        save("test_ims_bbx.npy", outside),
        "test_ims_bbx.npy, image 0: box 0: expected x1 <= x2, y1 <= y2",
    ),
    "sizes of others": (
        save("test_ims_size.npy", size_array()[:3]),
        "test_ims_size.npy: expected shape (4, 2), one per image, got (3, 2)",
    ),
    "size 0": (
        save("test_ims_size.npy", size_array() * 0),
        "test_ims_bbx.npy, image 0: expected a width and height > 0",
    ),
}


NUMBERED = {"100": "a.jpg", "101": "b/c.jpg", "102": "d.jpg", "103": "e.jpg", "104": 7}
KARPATHY = [{"imgid": 100 + i, "filename": f"{i}.jpg"} for i in range(5)]


@pytest.mark.parametrize("ids", ["copies", "once"])
@pytest.mark.parametrize(
    ("mapping", "names"),
    [
        (NUMBERED, ("a.jpg", "b/c.jpg", "d.jpg", "e.jpg")),
        ({"images": KARPATHY, "dataset": "flickr30k"}, ("0.jpg", "1.jpg", "2.jpg", "3.jpg")),
        (
            {"images": [{"imgid": i, "cocoid": 103 - i, "filename": f"COCO_{i}.jpg"} for i in range(4)]},
            ("COCO_3.jpg", "COCO_2.jpg", "COCO_1.jpg", "COCO_0.jpg"),
        ),
    ],
    ids=["id_mapping", "flickr30k", "coco"],
)
def test_file_names_of_numbers(source, tmp_path, ids, mapping, names):
    write(source, ids=ids, copies=5)
    (tmp_path / "m.json").write_text(json.dumps(mapping))
    assert convert(source, tmp_path / "o.h5", "--id-mapping", str(tmp_path / "m.json")) == 0
    assert open_split(tmp_path / "o.h5").ids == names


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({}, "m.json: expected the file name of image '100', got none"),
        (NUMBERED | {"101": 7}, "m.json: expected the file name of image '101', got 7"),
        (NUMBERED | {"101": "a.jpg"}, "m.json: expected a file name for each image, got 'a.jpg' for two of them"),
        ({"images": [{"filename": "a.jpg"}]}, "m.json: images[0]: expected filename and imgid or cocoid, got {"),
        ([], "m.json: expected one JSON object, got list"),
    ],
)
def test_bad_file_names(source, tmp_path, capsys, mapping, message):
    write(source)
    (tmp_path / "m.json").write_text(json.dumps(mapping))
    assert convert(source, tmp_path / "o.h5", "--id-mapping", str(tmp_path / "m.json")) == 2
    assert message in capsys.readouterr().err


def test_file_names_need_numbers(source, tmp_path, capsys):
    write(source, ids=None)
    assert convert(source, tmp_path / "o.h5", "--id-mapping", str(tmp_path / "m.json")) == 2
    assert "test_ids.txt: expected the numbers that " in capsys.readouterr().err


def test_pickled_sizes_are_told_before_copies_are_compared_with_a_line_that_mends_them(source, tmp_path, capsys):
    directory = write(source, boxes="gsmn", copies=5)
    sizes = [{"image_w": int(w), "image_h": int(h)} for w, h in np.load(directory / "test_ims_size.npy")]
    np.save(directory / "test_ims_size.npy", np.array(sizes))
    features = np.load(directory / "test_ims.npy")
    features[6] += 1  # no copy of its image
    np.save(directory / "test_ims.npy", features)
    assert convert(source, tmp_path / "o.h5") == 2
    line = capsys.readouterr().err.partition("this makes numbers of it: ")[2]
    exec(line, {"np": np})
    np.testing.assert_array_equal(np.load(directory / "test_ims_size.npy"), np.repeat(size_array(), 5, axis=0))


@pytest.mark.parametrize("before", [False, True], ids=["new", "old there"])
@pytest.mark.parametrize(("damage", "message"), BAD.values(), ids=BAD)
def test_bad_files(source, tmp_path, capsys, damage, message, before):
    damage(write(source, boxes="gsmn"))
    out = tmp_path / "out.h5"
    if before:
        out.write_text("old")
    assert convert(source, out) == 2
    err = capsys.readouterr().err
    assert err.startswith("cmsei-fast: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert files_in(tmp_path) == ["f30k_precomp", "out.h5"][: 1 + before]
    assert not before or out.read_text() == "old"


def test_output_directory_is_checked_first(source, tmp_path, capsys):
    assert convert(source, tmp_path / "none" / "o.h5") == 2
    assert "--out: expected a file in an existing directory, got " in capsys.readouterr().err
    assert convert(source, tmp_path) == 2
    assert "--out: expected the name of a file, got the directory " in capsys.readouterr().err


def test_the_file_has_the_ending_that_the_commands_know(source, tmp_path, capsys):
    assert convert(write(source), tmp_path / "o.npy") == 2
    assert f"--out: expected a name that ends in .h5 or .hdf5, got {tmp_path / 'o.npy'}\n" in capsys.readouterr().err
    assert not (tmp_path / "o.npy").exists()


def test_progress(source, tmp_path, capsys):
    assert convert(write(source, copies=5), tmp_path / "o.h5", "--progress") == 0
    err = capsys.readouterr().err
    assert "comparing copies" in err
    assert "regions" in err


MEASURE = """
import sys, threading, time
from cmsei_fast import cli
from cmsei_fast.data import write_split
def held():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) * 1024
before, most, done = held(), 0, False
def watch():
    global most
    while not done:
        most = max(most, held())
        time.sleep(0.002)
thread = threading.Thread(target=watch)
thread.start()
status = cli.main(["convert", "scan", sys.argv[1], "--split", "test", "--out", sys.argv[2]])
done = True
thread.join()
print(status, most - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_the_features(source, tmp_path):
    shape, captions = (400, 50, 1000), 2000  # 80 MB
    np.lib.format.open_memmap(source / "test_ims.npy", "w+", np.float32, shape).flush()
    (source / "test_caps.txt").write_text("a\n" * captions)
    command = [sys.executable, "-c", MEASURE, str(source), str(tmp_path / "o.h5")]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    status, more = map(int, run.stdout.splitlines()[-1].split())
    assert status == 0
    assert more < 20_000_000


def test_a_split_that_is_not_there_names_those_that_are(source, tmp_path, capsys):
    out = tmp_path / "out.h5"
    write(source, "dev")
    write(source, "train")
    assert convert(source, out) == 2
    assert f"split: expected one of dev, train (those in {source}), got 'test'\n" in capsys.readouterr().err
    assert convert(tmp_path, out) == 2  # a directory without any names the file
    assert "test_ims.npy: No such file or directory" in capsys.readouterr().err
    assert not out.exists()


def test_a_file_in_place_of_the_directory(tmp_path, capsys):
    (tmp_path / "test_ims.npy").touch()
    assert convert(tmp_path / "test_ims.npy", tmp_path / "out.h5") == 2
    told = f"directory: expected that of SCAN's files, got the file {tmp_path / 'test_ims.npy'}\n"
    assert capsys.readouterr().err.endswith(told)
