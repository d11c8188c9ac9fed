"""The file of a split: round trips, the memory map, workers, damaged files, interrupted and killed writes."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from splits import assert_same, files_in, random_split

from cmsei_fast.data import MappedRows, Split, layout, open_split, write_split


@pytest.fixture
def path(tmp_path):
    return tmp_path / "split.h5"


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of a few rows, so that images cross from one into the next."""
    monkeypatch.setattr(layout, "_CHUNK_BYTES", 100)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("fixed", [None, 3])
@pytest.mark.parametrize("chunk", [24, 100, 1 << 20])
def test_round_trip(path, monkeypatch, dtype, fixed, chunk):
    monkeypatch.setattr(layout, "_CHUNK_BYTES", chunk)
    split = random_split(9, dtype=dtype, fixed=fixed)
    write_split(path, split)
    got = open_split(path)
    assert_same(got, split)
    assert isinstance(got.features, MappedRows)
    assert files_in(path.parent) == ["split.h5"]
    write_split(path, got)  # onto the file its features are mapped from
    assert_same(open_split(path), split)


def test_least_split(path):
    split = Split(("é",), np.array([0, 1]), (), np.zeros(0, np.int64))
    write_split(path, split)
    assert_same(open_split(path), split)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 12), seed=st.integers(0, 99), width=st.integers(1, 40), chunk=st.integers(1, 600), data=st.data()
)
def test_any_split_comes_back(tmp_path_factory, n, seed, width, chunk, data):
    path = tmp_path_factory.mktemp("any") / "s.h5"
    captions = tuple(data.draw(texts) for _ in range(2 * n))
    split = random_split(n, seed=seed, width=width, captions=captions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "_CHUNK_BYTES", chunk)
        write_split(path, split)
    assert_same(open_split(path), split)


def test_rows_are_those_of_an_array(path, small_chunks):
    split = random_split(9)
    write_split(path, split)
    rows, expected = open_split(path).features, split.features
    n = len(expected)
    assert (rows.shape, rows.dtype, rows.ndim, len(rows)) == (expected.shape, expected.dtype, 2, n)
    for index in [
        0,
        -1,
        np.int64(2),
        slice(None),
        slice(3, 3),
        slice(5, 2),
        slice(2, 900),
        slice(-3, None),
        slice(9, 0, -2),
    ]:
        np.testing.assert_array_equal(rows[index], expected[index])
    for index in [np.array([3, 0, -1]), [1, 1], np.arange(4).reshape(2, 2), np.array([], int), np.arange(n) % 2 == 0]:
        np.testing.assert_array_equal(rows[index], expected[index])
    np.testing.assert_array_equal(np.asarray(rows), expected)
    with pytest.raises(ValueError, match=r"^copy: expected True or None .*, got False$"):
        rows.__array__(copy=False)
    assert not rows[0].flags.writeable
    for bad in (n, -n - 1, [0, n]):
        with pytest.raises(IndexError, match=f"rows: expected an index from 0 to {n - 1}, got"):
            rows[bad]
    with pytest.raises(TypeError, match="rows: expected an index, a slice or an array of indices, got str"):
        rows["a"]


def test_rows_are_not_copied_within_a_chunk(path):
    write_split(path, random_split(9))
    rows = open_split(path).features
    assert np.shares_memory(rows[2:5], rows[3:4])


def test_no_image_crosses_chunks_where_all_are_alike(path, monkeypatch):
    monkeypatch.setattr(layout, "_CHUNK_BYTES", 8 * 24)
    write_split(path, random_split(9, fixed=3))
    with h5py.File(path) as file:
        assert file["features"].chunks == (6, 6)


def test_a_pickled_split_maps_again_and_refuses_another_file(path):
    split = random_split(9)
    write_split(path, split)
    opened = open_split(path)
    sent = pickle.dumps(opened)
    assert len(sent) < 20000
    assert_same(pickle.loads(sent), split)
    write_split(path, random_split(9, seed=1))
    with pytest.raises(ValueError, match="expected the file that was opened, got one written since then"):
        pickle.loads(sent).features[0]
    assert_same(opened, split)  # its map still is the old file


class Images(torch.utils.data.Dataset):
    def __init__(self, split):
        self.split = split

    def __len__(self):
        return len(self.split)

    def __getitem__(self, i):
        rows = self.split.features[self.split.offsets[i] : self.split.offsets[i + 1]]
        return os.getpid(), torch.from_numpy(np.array(rows))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_the_map(path, small_chunks, method):
    if method not in torch.multiprocessing.get_all_start_methods():
        pytest.skip(f"{method} is not to be had here")
    split = random_split(12)
    write_split(path, split)
    loader = torch.utils.data.DataLoader(
        Images(open_split(path)), batch_size=None, num_workers=2, multiprocessing_context=method
    )
    read = list(loader)
    assert {pid for pid, _ in read}.isdisjoint({os.getpid()})
    np.testing.assert_array_equal(torch.cat([rows for _, rows in read]).numpy(), split.features)


def test_no_handle_stays_open(path):
    write_split(path, random_split())
    split = open_split(path)
    with h5py.File(path, "r+") as file:  # refused while a reader of the library has it
        file.attrs["more"] = 1
    assert len(split) == 5


def test_attributes_and_kinds(path):
    write_split(path, random_split())
    with h5py.File(path) as file:
        assert (file.attrs["format"], int(file.attrs["version"])) == ("cmsei_fast", 1)
        assert file["features"].compression is None
        assert file["captions"].asstr()[0] == "caption 0 ☃"
        assert file["boxes"].fletcher32


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


class Interrupted:
    """Rows that stop coming."""

    shape, dtype = (0, 6), np.dtype(np.float32)

    def __init__(self, rows, stop):
        self.shape, self._stop = (rows, 6), stop

    def __getitem__(self, rows):
        if rows.start >= 8:
            self._stop()
        return np.zeros((min(rows.stop, self.shape[0]) - rows.start, 6), np.float32)


def with_rows(stop):
    split = random_split(9)
    return random_split(9, features=Interrupted(int(split.offsets[-1]), stop))


def test_an_interrupted_write_leaves_the_old_file(path, small_chunks):
    def stop():
        raise KeyboardInterrupt

    old = random_split()
    write_split(path, old)
    with pytest.raises(KeyboardInterrupt):
        write_split(path, with_rows(stop))
    assert files_in(path.parent) == ["split.h5"]
    assert_same(open_split(path), old)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a child process")
@pytest.mark.parametrize("before", [False, True], ids=["new", "old there"])
def test_a_killed_write_leaves_nothing_that_looks_complete(path, small_chunks, before):
    old = random_split()
    if before:
        write_split(path, old)
    child = os.fork()
    if child == 0:
        write_split(path, with_rows(lambda: os.kill(os.getpid(), signal.SIGKILL)))
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    left = [name for name in files_in(path.parent) if name != "split.h5"]
    assert len(left) == 1
    assert left[0].startswith(".split.h5.")
    assert left[0].endswith(".part")
    with pytest.raises(ValueError, match="HDF5 file"):
        open_split(path.parent / left[0])
    if before:
        assert_same(open_split(path), old)
    else:
        assert not path.exists()


FILLS_UP = """
import resource, sys
import numpy as np
from cmsei_fast.data import Split, write_split
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))  # as of a disk that fills up while it is written
features = np.ones((4000, 256), np.float32)
captions = tuple(map(str, range(4000)))
split = Split(captions, np.arange(4001), captions, np.arange(4000), features)
try:
    write_split(sys.argv[1], split)
except OSError as error:
    print(error.filename, error.errno)
"""


@pytest.mark.parametrize("limit", [30, 3000, 2_000_000])
def test_a_disk_that_fills_up_is_one_error(path, limit):
    """HDF5 crashes, at the end of the process, where it cannot close a file."""
    path.write_text("old")
    command = [sys.executable, "-c", FILLS_UP, str(path), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"{path} {errno.EFBIG}\n")
    assert files_in(path.parent) == ["split.h5"]
    assert path.read_text() == "old"


def test_a_full_disk_is_told_before_anything_is_written(path, monkeypatch):
    split = random_split(3)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(OSError, match=rf"^{path}: expected 0\.00 GiB of room for the split, got 0\.00 GiB$"):
        write_split(path, split)
    assert files_in(path.parent) == []


def test_a_directory_that_cannot_be_written(path, monkeypatch):
    """Told before the work; a test by root can write anywhere."""
    monkeypatch.setattr(os, "access", lambda name, mode: not (mode == os.W_OK and name == str(path.parent)))
    with pytest.raises(PermissionError, match=rf"^{path}: expected a file in a directory that can be written$"):
        write_split(path, random_split(3))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_must_be_finite(path, value):
    split = random_split()
    split.features[split.offsets[3] + 0, 2] = value
    with pytest.raises(ValueError, match="expected finite numbers of float32, got") as caught:
        write_split(path, split)
    assert str(caught.value).startswith(f"features[{split.offsets[3]}] (image 3.jpg): ")
    assert files_in(path.parent) == []


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_text_that_no_file_can_hold(path, text):
    with pytest.raises(ValueError, match=r"captions\[9\]: expected text without NUL and lone surrogates, got"):
        write_split(path, random_split(captions=("x",) * 9 + (text,)))
    assert files_in(path.parent) == []


def test_permissions_are_those_of_a_new_file(path):
    write_split(path, random_split())
    other = path.parent / "other"
    other.write_text("")
    assert path.stat().st_mode == other.stat().st_mode


def test_writing_shows_progress(path, capsys):
    write_split(path, random_split(), progress=True)
    assert "regions" in capsys.readouterr().err
