"""A score matrix in a file: complete or not there, and a killed run goes on without doing a tile twice."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import scoring_runs
import torch

from cmsei_fast import PairScorer, fingerprint, score_file, score_matrix, score_record
from cmsei_fast.scoring import prepare

pytestmark = pytest.mark.skipif(os.name != "posix", reason="score files need POSIX")


@pytest.fixture
def scored():
    with scoring_runs.small_tiles() as pairs:
        yield pairs


@pytest.fixture
def out(tmp_path):
    return tmp_path / "scores.npy"


def run(out, resume=True, features=None, **options):
    return score_matrix(
        *(features or scoring_runs.features()), out=out, resume=resume, **({"engine": "eager"} | options)
    )


def stopped(out, monkeypatch, at, error=KeyboardInterrupt, **options):
    """A run that an error ends at the tile of that number."""
    write = score_file.ScoreFile.write

    def fail(self, i, j, tile):
        if self.done.sum() == at:
            raise error
        return write(self, i, j, tile)

    with monkeypatch.context() as patched:
        patched.setattr(score_file.ScoreFile, "write", fail)
        with pytest.raises(error):
            run(out, **options)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_elsewhere_than_on_posix_it_says_so(out, monkeypatch):
    monkeypatch.setattr(score_file, "fcntl", None)
    with pytest.raises(OSError, match=r"^out: expected an array, since .* need a POSIX system, got a name$"):
        run(out)
    assert names(out.parent) == []


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_file_is_the_matrix(out, precision, scored):
    expected = score_matrix(*scoring_runs.features(), engine="eager", precision=precision)
    assert len(scored) > 8
    for kind in (os.fspath, lambda x: x):
        got = run(kind(out), resume=False, precision=precision)
        assert isinstance(got, np.memmap)
        assert not got.flags.writeable
        assert got.dtype == precision
        np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(np.load(out, allow_pickle=False), expected)
        assert names(out.parent) == ["scores.npy"]


def test_tensors_and_nothing_at_all(out):
    images, captions, m, n = scoring_runs.features()
    expected = score_matrix(images, captions, m, n)
    got = score_matrix(torch.from_numpy(images), torch.from_numpy(captions), m, n, out=out)
    np.testing.assert_array_equal(got, expected)
    assert score_matrix(images[:0], captions, m, n[:0], out=out).shape == (0, 30)
    assert np.load(out).shape == (0, 30)
    assert names(out.parent) == ["scores.npy"]


@pytest.mark.parametrize("where", ["7", "before", "after"])
def test_a_killed_run_goes_on(out, where, scored, capsys):
    expected = np.array(score_matrix(*scoring_runs.features(), engine="eager"))
    sizes = scored.copy()
    scored.clear()
    scoring_runs.killed(out, where)
    left = ["scores.npy" if where == "after" else "scores.npy.part", "scores.npy.record"]
    assert names(out.parent) == left
    got = run(out, progress=True)
    np.testing.assert_array_equal(got, expected)
    assert names(out.parent) == ["scores.npy"]
    assert scored == (sizes[7:] if where == "7" else [])  # no finished tile is scored again
    shares = [int(x) for x in re.findall(r"(\d+) % of 360 pairs", capsys.readouterr().err)]
    assert shares == ([100 * sum(sizes[:8]) // 360, 100] if where == "7" else [])


def test_a_run_that_is_stopped_several_times(out, scored, monkeypatch):
    expected = np.array(score_matrix(*scoring_runs.features(), engine="eager"))
    sizes = scored.copy()
    scored.clear()
    for at in (2, 3, 9):
        stopped(out, monkeypatch, at)
        assert names(out.parent) == ["scores.npy.part", "scores.npy.record"]
    np.testing.assert_array_equal(run(out), expected)
    assert sum(scored) == sum(sizes) + sizes[2] + sizes[3] + sizes[9]  # those that were scored and not written


def test_a_process_that_outlives_its_run_does_not_write_into_the_next(out, scored, monkeypatch):
    """As one whose launcher and first process were killed: it goes on to the next exchange."""
    expected = np.array(score_matrix(*scoring_runs.features(), engine="eager"))
    stopped(out, monkeypatch, 3)
    left = os.open(f"{out}.part", os.O_RDWR)
    try:
        run(out, resume=False)
        os.pwrite(left, b"\x40" * 400, 200)
    finally:
        os.close(left)
    np.testing.assert_array_equal(np.load(out), expected)
    assert names(out.parent) == ["scores.npy"]


def test_another_run_that_takes_the_part_meanwhile_is_told(out, monkeypatch):
    others, unlink = [], Path.unlink

    def unlink_and_begin(self, missing_ok=False):
        unlink(self, missing_ok)
        if self.name == "scores.npy.part":
            others.append(os.open(self, os.O_RDWR | os.O_CREAT))
            fcntl.flock(others[-1], fcntl.LOCK_EX)

    monkeypatch.setattr(Path, "unlink", unlink_and_begin)
    with pytest.raises(OSError, match=r"scores\.npy\.part: expected no other run that writes it, got one$"):
        run(out, resume=False)
    assert len(others) == 1
    os.close(others[0])


def test_without_resume_it_starts_afresh(out, scored, monkeypatch):
    np.save(out, np.ones(3))
    stopped(out, monkeypatch, 5)
    assert np.load(out).shape == (3,)  # what was there stays until the new one is complete
    sizes = len(scored)
    run(out, resume=False)
    assert len(scored) > sizes + 8
    assert names(out.parent) == ["scores.npy"]
    scored.clear()
    run(out)  # nothing to go on with
    assert len(scored) > 8


def test_marks_are_batched_but_none_is_lost_by_an_error(out, scored, monkeypatch):
    score_file.MARK_EVERY = 1000.0
    stopped(out, monkeypatch, 5)
    scored.clear()
    run(out)
    first = len(scored)
    scored.clear()
    run(out)
    assert len(scored) == first + 5


@pytest.mark.parametrize("damage", ["scores", "mark", "torn", "nonsense", "short part", "no record", "no part"])
def test_what_is_damaged_is_scored_again(out, damage, scored, monkeypatch):
    expected = np.array(score_matrix(*scoring_runs.features(), engine="eager"))
    tiles = len(scored)
    stopped(out, monkeypatch, 6)
    scored.clear()
    part, record = out.with_name("scores.npy.part"), out.with_name("scores.npy.record")
    lost = {"torn": 1, "nonsense": 0, "scores": 1, "mark": 1}.get(damage, 6)
    if damage == "scores":
        np.load(part, mmap_mode="r+")[0, 0] += 1
    elif damage in ("mark", "torn", "nonsense"):
        lines = record.read_bytes().splitlines(keepends=True)
        assert len(lines) == 7
        if damage == "mark":
            lines[3] = lines[3][:-9] + b"00000000\n"
        lines[-1] = lines[-1][:-4] if damage == "torn" else lines[-1]
        lines += [b"\x00\xff\n", b"9999 0 00000000\n", b"0 0\n"] if damage == "nonsense" else []
        record.write_bytes(b"".join(lines))
    elif damage == "short part":
        os.truncate(part, part.stat().st_size - 4)
    else:
        (record if damage == "no record" else part).unlink()
    np.testing.assert_array_equal(run(out), expected)
    assert len(scored) == tiles - 6 + lost
    assert names(out.parent) == ["scores.npy"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[1]", b"\x93NUMPY", b'{"format": "cmsei_fast score record", "version": 2}', b"[" * 100_000],
    ids=["empty", "object", "list", "npy", "version", "deep"],
)
def test_another_file_in_the_place_of_the_record(out, content, scored, monkeypatch):
    stopped(out, monkeypatch, 2)
    record = out.with_name("scores.npy.record")
    record.write_bytes(content)
    expected = rf"^resume: expected {re.escape(str(record))} to be a cmsei_fast score record of version 1, got another"
    with pytest.raises(ValueError, match=expected):
        run(out)
    run(out, resume=False)


def changed(name):
    """Features in which one number, or one length, is another."""
    images, captions, m, n = scoring_runs.features()
    if name == "caption_lengths":
        m[4] = m[4] % 7 + 1
    else:
        {"images": images, "captions": captions}[name][3, 0, 5] += 1
    return images, captions, m, n


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"features": changed("images")}, "images.content"),
        ({"features": changed("captions")}, "captions.content"),
        ({"features": changed("caption_lengths")}, "captions.content"),
        ({"features": tuple(x[:10] for x in scoring_runs.features())}, "captions.count: expected 30, got 10"),
        ({"scorer": PairScorer.scan_t2i()}, "scorer.alignment: expected 1.0, got 0.0"),
        ({"precision": "float64"}, "precision: expected float32, got float64"),
        ({"engine": "reference"}, "engine: expected eager cpu, got reference cpu"),
    ],
)
def test_another_problem_is_one_clear_error(out, options, named, scored, monkeypatch):
    stopped(out, monkeypatch, 3)
    before = {path.name: path.read_bytes() for path in out.parent.iterdir()}
    with pytest.raises(
        ValueError, match=r"^resume: expected the problem that .*scores\.npy\.part was begun with"
    ) as error:
        run(out, **options)
    assert named in str(error.value)
    assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == before
    run(out)


def test_padding_and_layout_are_not_the_problem(out, scored, monkeypatch):
    stopped(out, monkeypatch, 3)
    images, captions, m, n = scoring_runs.features()
    captions[m[:, None] <= np.arange(7)] = np.nan
    packed = np.concatenate([x[:k] for x, k in zip(images, n, strict=True)])
    found = [fingerprint.fingerprint([prepare(x, captions, m, n, None, "eager", None)]) for x in (images, packed)]
    assert found[0] == found[1]
    run(out, features=(images, captions, m, n))


@pytest.mark.parametrize("form", ["memmap", "h5py"])
def test_files_are_known_by_size_time_and_a_sample(out, form, tmp_path, scored, monkeypatch):
    images, captions, m, n = scoring_runs.features()
    monkeypatch.setattr(fingerprint, "SAMPLE", 3)
    stored = tmp_path / "images"

    def opened():
        if form == "memmap":
            return np.memmap(stored, np.float32, "r", shape=images.shape)
        return pytest.importorskip("h5py").File(stored, "r")["x"]

    if form == "memmap":
        images.tofile(stored)
    else:
        with pytest.importorskip("h5py").File(stored, "w") as file:
            file["x"] = images
    folder = tmp_path / "out"
    folder.mkdir()
    out = folder / "scores.npy"
    stopped(out, monkeypatch, 3, features=(opened(), captions, m, n))
    shutil.copytree(folder, tmp_path / "kept")
    run(out, features=(opened(), captions, m, n))
    shutil.copytree(tmp_path / "kept", folder, dirs_exist_ok=True)
    found = stored.stat()
    os.utime(stored, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    with pytest.raises(ValueError, match=r"\(images\.file time: expected \d+, got \d+\)"):
        run(out, features=(opened(), captions, m, n))
    if form == "memmap":
        images[0, 0, 0] += 1
        images.tofile(stored)
        os.utime(stored, ns=(found.st_atime_ns, found.st_mtime_ns))
        with pytest.raises(ValueError, match=r"\(images\.sample: expected"):
            run(out, features=(opened(), captions, m, n))


class Journal:
    """A file that takes what there is room for, a few bytes at a time."""

    def __init__(self, path, take):
        self.file, self.take = open(path, "ab", buffering=0), take  # noqa: SIM115 - closed by close

    def close(self):
        self.file.close()

    def write(self, data):
        return self.file.write(self.take(data[:11]))


@pytest.mark.parametrize(("name", "room"), [("part", 700), ("record", 200)])
def test_a_disk_that_fills_up_is_one_error_that_names_the_file(out, name, room, scored, monkeypatch):
    """What is marked then is not scored again."""
    expected = np.array(run(out))
    tiles = len(scored)
    scored.clear()
    left, pwrite = [room], os.pwrite

    def take(data):
        if left[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        some = data[: left[0]]
        left[0] -= len(some)
        return some

    with monkeypatch.context() as patched:
        if name == "part":
            patched.setattr(os, "pwrite", lambda file, data, at: pwrite(file, take(data), at))
        else:
            patched.setattr(score_record, "open", lambda path, *_, **__: Journal(path, take), raising=False)
        with pytest.raises(OSError, match=rf"^\[Errno {errno.ENOSPC}\] .*scores\.npy\.{name}'$"):
            run(out, resume=False)
    done = len(scored) - 1
    assert 3 < done < tiles - 3
    scored.clear()
    np.testing.assert_array_equal(run(out), expected)
    assert len(scored) == tiles - done
    assert names(out.parent) == ["scores.npy"]


def test_two_runs_do_not_write_one_file(out, scored, monkeypatch):
    write, tried = score_file.ScoreFile.write, []

    def write_and_try(self, i, j, tile):
        if not tried:
            tried.append(1)
            with pytest.raises(OSError, match=r"scores\.npy\.part: expected no other run that writes it, got one$"):
                run(out)
        return write(self, i, j, tile)

    monkeypatch.setattr(score_file.ScoreFile, "write", write_and_try)
    run(out)
    assert tried


FULL = r"^out: expected 1\.53 KiB of room for .*scores\.npy\.part, got 10 bytes$"


def test_a_full_disk_is_an_error_and_no_loss(out, scored, monkeypatch):
    stopped(out, monkeypatch, 4, OSError)
    usage = shutil._ntuple_diskusage(100, 90, 10)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(OSError, match=FULL):
            run(out, resume=False)
        assert names(out.parent) == ["scores.npy.part"]
        (out.parent / "scores.npy.part").unlink()
        with pytest.raises(OSError, match=FULL):
            run(out)
        assert names(out.parent) == []
    run(out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": "scores.h5"}, "out: expected the name of a file that ends in .npy, got 'scores.h5'"),
        ({"resume": True}, "resume: expected out= to be the name of a file, got NoneType"),
        ({"resume": True, "out": np.zeros((12, 30))}, "resume: expected out= to be the name of a file, got ndarray"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        score_matrix(*scoring_runs.features(), **options)


def test_no_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a file in an existing directory"):
        score_matrix(*scoring_runs.features(), out=tmp_path / "absent" / "scores.npy")


def test_the_record_is_what_is_documented(out, scored, monkeypatch):
    stopped(out, monkeypatch, 2)
    head, *marks = out.with_name("scores.npy.record").read_text().splitlines()
    found = json.loads(head)
    assert found["format"] == "cmsei_fast score record"
    assert found["version"] == 1
    assert found["problem"]["images"]["count"] == 12
    assert found["grid"]["images"][-1] == 12
    assert [re.fullmatch(r"0 \d [0-9a-f]{8}", mark) is not None for mark in marks] == [True, True]
