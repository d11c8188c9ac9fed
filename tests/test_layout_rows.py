"""Rows of a split's file through its memory map: as of an array, in other processes, never copied within a chunk."""

from __future__ import annotations

import os
import pickle

import h5py
import numpy as np
import pytest
import torch
from splits import assert_same, random_split

from cmsei_fast.data import layout, open_split, write_split


@pytest.fixture
def path(tmp_path):
    return tmp_path / "split.h5"


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
