"""The file of a split: round trips, attributes and kinds of its data sets."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from splits import assert_same, files_in, random_split

from cmsei_fast.data import MappedRows, Split, layout, open_split, write_split


@pytest.fixture
def path(tmp_path):
    return tmp_path / "split.h5"


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


def test_attributes_and_kinds(path):
    write_split(path, random_split())
    with h5py.File(path) as file:
        assert (file.attrs["format"], int(file.attrs["version"])) == ("cmsei_fast", 1)
        assert file["features"].compression is None
        assert file["captions"].asstr()[0] == "caption 0 ☃"
        assert file["boxes"].fletcher32
