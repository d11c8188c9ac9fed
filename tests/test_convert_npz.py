"""Folders of bottom-up-attention.pytorch's npz files."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from splits import files_in

from cmsei_fast import cli
from cmsei_fast.data import open_split
from cmsei_fast.data.convert import npz

COUNTS = {"COCO_val2014_000000000012": 10, "7": 100, "a": 36}
D = 6


def parts(name):
    count = COUNTS[name]
    rng = np.random.default_rng(count)
    low = rng.uniform(0, 200, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(0, 100, (count, 2))], axis=1).astype(np.float32)
    entries = {"x": rng.standard_normal((count, D)).astype(np.float32), "bbox": boxes, "num_bbox": count}
    return entries | {"image_h": 375, "image_w": 500, "info": np.array({"objects_id": [1, 2]})}


@pytest.fixture
def folder(tmp_path):
    directory = tmp_path / "feats"
    directory.mkdir()
    for name in COUNTS:
        np.savez_compressed(directory / f"{name}.npz", **parts(name))
    (directory / "log.txt").write_text("not an image")
    return directory


def convert(folder, out, *options):
    return cli.main(["convert", "npz", str(folder), "--out", str(out), *map(str, options)])


def check(split, names):
    for i, name in enumerate(names):
        rows = slice(split.offsets[i], split.offsets[i + 1])
        np.testing.assert_array_equal(split.features[rows], parts(name)["x"])
        np.testing.assert_array_equal(split.boxes[rows], parts(name)["bbox"])
        np.testing.assert_array_equal(split.sizes[i], [500, 375])


def test_convert_all(folder, tmp_path, capsys):
    assert convert(folder, tmp_path / "o.h5", "--progress") == 0
    split = open_split(tmp_path / "o.h5")
    assert split.ids == ("7", "COCO_val2014_000000000012", "a")
    check(split, split.ids)
    captured = capsys.readouterr()
    assert "3 images of 10 to 100 regions, 0 captions; features 146 × 6 float32; boxes" in captured.out
    assert "boxes: 100%" in captured.err


def test_convert_those_with_captions(folder, tmp_path):
    (tmp_path / "t.txt").write_text("a.jpg\tA\n12.jpg\tB\na.jpg\tC\n")
    assert convert(folder, tmp_path / "o.h5", "--captions", tmp_path / "t.txt") == 0
    split = open_split(tmp_path / "o.h5")
    assert split.ids == ("a.jpg", "12.jpg")
    assert split.captions == ("A", "B", "C")
    check(split, ["a", "COCO_val2014_000000000012"])


def changed(**changes):
    def damage(path):
        np.savez_compressed(path, **{k: v for k, v in (parts("7") | changes).items() if v is not None})

    return damage


def cut(kept):
    def damage(path):
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content))])

    return damage


def flipped(path):
    content = bytearray(path.read_bytes())
    content[300:310] = bytes(10)  # within the first entry, x
    path.write_bytes(content)


def entry(content):
    def damage(path):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("bbox.npy", content)

    return damage


def twice(name):
    """Other bytes under an entry's name without its ending, which numpy prefers."""

    def damage(path):
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, b"text")

    return damage


def locked(path):
    """Each entry is marked as one that a password opens."""
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        place = content.find(signature)
        while place >= 0:
            content[place + flags] |= 1
            place = content.find(signature, place + 4)
    path.write_bytes(content)


def head(body):
    """Its boxes have that head, which numpy parses as Python and quotes."""
    return entry(b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body)


def without_some(path):
    content = path.read_bytes()
    path.write_bytes(content[:4] + content[64:])  # places within the archive are before its begin


BAD = {
    "empty": (cut(0), "7.npz: "),
    "truncated": (cut(0.5), "7.npz: truncated or damaged .npz file: "),
    "end missing": (cut(0.99), "7.npz: truncated or damaged .npz file: "),
    "damaged": (flipped, "7.npz: truncated or damaged .npz file: "),
    "an npy": (lambda path: path.open("wb").write(npy()), "7.npz: expected a .npz file, got an array of shape (3,)"),
    "text": (lambda path: path.write_text("hello"), "7.npz: expected a .npz file, got one that begins with b'hello'"),
    "no x": (changed(x=None), "7.npz: missing x"),
    "no boxes": (changed(bbox=None), "7.npz: missing bbox"),
    "no width": (changed(image_w=None), "7.npz: missing image_w"),
    "count": (changed(num_bbox=99), "7.npz: bbox: expected shape (99, 4) (num_bbox), got (100, 4)"),
    "no regions": (changed(num_bbox=0), "7.npz: num_bbox: expected at least one region, got 0"),
    "counts": (changed(num_bbox=[1, 2]), "7.npz: num_bbox: expected one number, got int64 of shape (2,)"),
    "complex": (changed(bbox=parts("7")["bbox"] + 1j), "7.npz: bbox: expected numbers, got complex64"),
    "words": (changed(bbox=parts("7")["bbox"].astype(str)), "7.npz: bbox: expected numbers, got <U32"),
    "no array": (entry(b"text"), "7.npz: bbox: expected an array, got other bytes"),
    "two of boxes": (twice("bbox"), "7.npz: bbox: expected an array, got other bytes"),
    "two of features": (twice("x"), "7.npz: x: expected an array, got other bytes"),
    "a password": (locked, "7.npz: bbox: expected an archive without a password, got one that asks for it"),
    "a head of words": (head(b"not " * 2000), "7.npz: Cannot parse header: "),
    "a head too deep to parse": (head(b"-" * 9000), "7.npz: truncated or damaged .npz file: "),
    "a head too long to parse": (head(b"1+" * 4000 + b"1"), "7.npz: truncated or damaged .npz file: "),
    "a head that is calculated": (head(b"1+1"), "7.npz: truncated or damaged .npz file: its head is no literal"),
    "a head of more than there is": (
        head(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 4)}"),
        "7.npz: truncated or damaged .npz file: expected 16000000000079 bytes (as its head tells), got 79",
    ),
    "rows": (changed(x=np.zeros((99, D), np.float32)), "7.npz: x: expected shape (100, Dx), got (99, 6)"),
    "width": (changed(x=np.zeros((100, 5), np.float32)), "x: expected shape ("),
    "integers": (
        changed(x=np.zeros((100, 6), int)),
        "7.npz: x: expected floating numbers of shape (100, Dx), got int64",
    ),
    "pickled boxes": (changed(bbox=np.array([{}])), "7.npz: Object arrays cannot be loaded when allow_pickle=False"),
    "begin missing": (
        lambda path: path.write_bytes(path.read_bytes()[:4] + path.read_bytes()[64:]),
        "7.npz: truncated or damaged .npz file: ",
    ),
    "endless": (changed(image_w=1e300), "7.npz: image_w: expected a finite number, got 1e+300"),
    "outside": (changed(image_w=100), "7.npz: bbox: box "),
    "nan": (changed(x=np.full((100, D), np.nan, np.float32)), "7.npz: features[0] (image 7): expected finite numbers"),
}


def npy():
    stream = io.BytesIO()
    np.save(stream, np.arange(3))
    return stream.getvalue()


@pytest.mark.parametrize("before", [False, True], ids=["new", "old there"])
@pytest.mark.parametrize(("damage", "message"), BAD.values(), ids=BAD)
def test_bad_files(folder, tmp_path, capsys, damage, message, before):
    damage(folder / "7.npz")
    out = tmp_path / "out.h5"
    if before:
        out.write_text("old")
    assert convert(folder, out) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert len(err.replace(str(tmp_path), "")) < 300
    assert files_in(tmp_path) == ["feats", "out.h5"][: 1 + before]
    assert not before or out.read_text() == "old"


@pytest.mark.parametrize("message", ["Unable to allocate 9 GiB for an array", ""])
def test_memory_that_is_short_is_no_damage(folder, tmp_path, capsys, monkeypatch, message):
    def exhausted(*_):
        raise MemoryError(message)

    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", exhausted)
    assert convert(folder, tmp_path / "o.h5") == 2
    first = folder / "7.npz"
    assert capsys.readouterr().err == f"cmsei-fast: error: {first}: {message or 'out of memory'}\n"


def test_what_this_package_says_is_not_cut(folder, tmp_path, capsys, monkeypatch):
    """As numpy's messages are, which quote damaged files."""
    told = "bbox: " + 40 * "expected this " + "got that"

    def refused(*_):
        raise ValueError(told)

    monkeypatch.setattr(npz, "check_inside", refused)
    assert convert(folder, tmp_path / "o.h5") == 2
    assert capsys.readouterr().err == f"cmsei-fast: error: {folder / '7.npz'}: {told}\n"


def test_folder_without_files(tmp_path, capsys):
    assert convert(tmp_path, tmp_path / "o.h5") == 2
    assert "expected .npz files, got none" in capsys.readouterr().err
    assert convert(tmp_path / "none", tmp_path / "o.h5") == 2
    assert "No such file or directory" in capsys.readouterr().err
