"""Writing a split's file: interrupted, killed, onto full disks, and what no file can hold."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from splits import assert_same, files_in, random_split

from cmsei_fast.data import open_split, write_split


@pytest.fixture
def path(tmp_path):
    return tmp_path / "split.h5"


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
    with pytest.raises(OSError, match=rf"^{path}: expected \d+ bytes of room for the split, got 10 bytes$"):
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


def test_padding_is_told(path, small_chunks, recwarn):
    split = random_split(9)
    write_split(path, split)
    assert not recwarn.list
    features, last = split.features.copy(), split.offsets[1:] - 1
    features[last[[2, 3]]] = features[split.offsets[4] : split.offsets[5]] = 0  # the last throughout: told of by nobody
    write_split(path, random_split(9, features=features))
    told = [str(w.message) for w in recwarn]
    assert len(told) == 1
    assert told[0].startswith(
        f"features: 2 of 9 images end in rows of zeros (the first: {split.ids[2]}), which count as"
    )
    assert np.array_equal(open_split(path).features[:], features)
