"""Files that are written whole or not at all: errors name the file that was asked for, never the one beside it."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from pathlib import Path
from typing import Any, NoReturn

import pytest

from cmsei_fast.data import files
from cmsei_fast.data.files import write_text


def test_a_directory_that_vanishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Like a share that is unmounted, or a folder that a script cleans up."""
    folder = tmp_path / "results"
    folder.mkdir()
    name = files.temporary_name

    def named(target: str) -> str:
        found = name(target)
        shutil.rmtree(folder)
        return found

    monkeypatch.setattr(files, "temporary_name", named)
    with pytest.raises(FileNotFoundError) as caught:
        write_text(folder / "page.html", "text")
    assert caught.value.filename == str(folder / "page.html")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
def test_no_room_for_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Not even for its name."""
    path = tmp_path / "page.html"
    path.write_text("old")

    def full(name: str, mode: str) -> NoReturn:
        raise OSError(number, os.strerror(number), name)

    monkeypatch.setattr(files, "open", full, raising=False)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        write_text(path, "text")
    assert (caught.value.errno, caught.value.filename) == (number, str(path))
    assert path.read_text() == "old"


def test_ctrl_c_as_soon_as_the_file_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruptible: None
) -> None:
    """Before its name is told to anyone."""

    def interrupted(name: str, mode: str, *rest: Any, **options: Any) -> Any:
        if mode.startswith("x"):
            Path(name).touch()
            signal.raise_signal(signal.SIGINT)
        return open(name, mode, *rest, **options)

    monkeypatch.setattr(files, "open", interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "page.html", "text")
    assert os.listdir(tmp_path) == []


def test_an_error_about_another_file_is_left_as_it_is(tmp_path: Path) -> None:
    from cmsei_fast.data.files import replacing

    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "page.html"):
        (tmp_path / "features.npy").read_bytes()
    assert caught.value.filename == str(tmp_path / "features.npy")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("needed", "free", "told"),
    [
        (2**31, 2**29, "expected 2.00 GiB of room for the split, got 512.00 MiB"),
        (3 * 2**20, 5 * 2**9, "expected 3.00 MiB of room for the split, got 2.50 KiB"),
        (1024, 0, "expected 1.00 KiB of room for the split, got 0 bytes"),
    ],
)
def test_too_little_room_is_told_in_units_that_show_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needed: int, free: int, told: str
) -> None:
    usage = shutil._ntuple_diskusage(free, 0, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match="room") as caught:
        files.check_room(tmp_path, needed, "x.h5", "the split")
    assert str(caught.value) == f"x.h5: {told}"
