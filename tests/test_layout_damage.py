"""Files that are no split's, or damaged ones: each is refused by name."""

from __future__ import annotations

import subprocess
import sys

import h5py
import numpy as np
import pytest
from splits import random_split

from cmsei_fast.data import open_split, write_split


@pytest.fixture
def path(tmp_path):
    return tmp_path / "split.h5"


def edit(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


def replace(name, **options):
    def change(file):
        del file[name]
        if options:
            file.create_dataset(name, **options)

    return change


def compressed(file):
    rows = file["features"][:]
    del file["features"]
    file.create_dataset("features", data=rows, compression="gzip", chunks=(2, 6))


EDITS = {
    "other format": (lambda f: f.attrs.__setitem__("format", "other"), "expected the attribute format = 'cmsei_fast'"),
    "no format": (lambda f: f.attrs.__delitem__("format"), "expected the attribute format = 'cmsei_fast'"),
    "newer": (lambda f: f.attrs.__setitem__("version", 2), "expected version 1 of the layout, got"),
    "version text": (lambda f: f.attrs.__setitem__("version", "1"), "expected version 1 of the layout, got"),
    "missing": (replace("offsets"), "missing data set offsets"),
    "all missing": (lambda f: [f.__delitem__(n) for n in ("ids", "captions")], "missing data sets ids, captions"),
    "group": (lambda f: (f.__delitem__("ids"), f.create_group("ids")), "ids: expected a data set, got group"),
    "empty": (
        lambda f: (f.__delitem__("boxes"), f.create_dataset("boxes", data=h5py.Empty("f4"))),
        "boxes: expected a data set, got an empty one",
    ),
    "numbers as captions": (replace("captions", data=[1, 2]), "captions: expected strings, got int64"),
    "offsets dtype": (replace("offsets", data=[0, 1]), "offsets: expected shape (6,), got (2,)"),
    "boxes dtype": (replace("boxes", data=[[0.0] * 4]), "boxes: expected float32, got float64"),
    "rank": (
        replace("features", data=np.zeros(3, np.float32)),
        "features: expected (rows, width) numbers in uncompressed",
    ),
    "compressed": (compressed, "features: expected (rows, width) numbers in uncompressed chunks"),
    "unwritten chunk": (
        replace("features", shape=(20, 6), dtype="f4", chunks=(4, 6)),
        "features: expected a chunk of 96 bytes for row 0, got none in the file",
    ),
    "inconsistent": (lambda f: f["offsets"].__setitem__(1, 0), "offsets[1]: expected at least 1, got 0"),
}


@pytest.mark.parametrize(("change", "message"), EDITS.values(), ids=EDITS)
def test_files_that_are_refused(path, change, message):
    write_split(path, random_split())
    edit(path, change)
    with pytest.raises(ValueError, match=r"split\.h5: ") as caught:
        open_split(path)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("kept", [0, 4, 8, 50, 2000, 0.5, -1])
def test_truncated_files(path, kept):
    write_split(path, random_split(200))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(
        ValueError, match=r"truncated or damaged HDF5 file|expected an HDF5 file by write_split"
    ) as caught:
        open_split(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_damage_is_found_or_does_no_harm(path):
    """In another process, since a library in C reads it: bytes overwritten anywhere outside the features."""
    split = random_split(30, features=None)
    write_split(path, split)
    code = """
import sys, numpy as np
sys.path.insert(0, sys.argv[2])
from cmsei_fast.data import open_split
path = sys.argv[1]
content = open(path, "rb").read()
rng = np.random.default_rng(0)
refused = 0
for _ in range(100):
    damaged = bytearray(content)
    for place in rng.integers(8, len(content), 3):
        damaged[place] = rng.integers(256)
    open(path + "x", "wb").write(damaged)
    try:
        open_split(path + "x")
    except ValueError as error:
        assert str(error).startswith(path + "x: "), error
        refused += 1
print(refused)
"""
    run = subprocess.run([sys.executable, "-c", code, str(path), ""], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 10


def test_strings_that_were_zeroed(path):
    """In another process: HDF5 reads an object of size 0 in a collection of strings for ever."""
    write_split(path, random_split(30))
    content = path.read_bytes()
    heaps = [at for at in range(0, len(content), 8) if content.startswith(b"GCOL\x01\0\0\0", at)]
    assert heaps
    code = """
import sys
from cmsei_fast.data import open_split
for path in sys.argv[1:]:
    try:
        open_split(path)
    except ValueError as error:
        print(error)
"""
    paths = [path.with_name(f"{at}.h5") for at in heaps]
    for at, damaged in zip(heaps, paths, strict=True):
        damaged.write_bytes(content[: at + 16] + bytes(64) + content[at + 80 :])
    run = subprocess.run([sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [
        f"{x}: truncated or damaged HDF5 file: nothing is where its strings were" for x in paths
    ]


def test_numbers_with_a_wrong_checksum(path):
    split = random_split(50)
    write_split(path, split)
    content = bytearray(path.read_bytes())
    content[content.index(split.boxes.tobytes()) + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="truncated or damaged HDF5 file"):
        open_split(path)


def test_absent_file_and_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.h5"):
        open_split(tmp_path / "none.h5")
    with pytest.raises(IsADirectoryError):
        open_split(tmp_path)
    with pytest.raises(IsADirectoryError, match="expected the name of a file, got a directory"):
        write_split(tmp_path, random_split())
    with pytest.raises(FileNotFoundError, match="expected a file in an existing directory"):
        write_split(tmp_path / "none" / "s.h5", random_split())
