"""The file of a split: one flat HDF5 file whose data sets have the names of the parts of a :class:`Split`.

It is written whole or not at all. Reading loads everything but the features, which stay in the file and are read
through a memory map.
"""

from __future__ import annotations

import contextlib
import io
import math
import mmap
import os
import struct
import warnings
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
from tqdm import tqdm

from .files import check_room, check_target, replacing
from .rows import MappedRows
from .split import Split
from .strings import check_strings

FORMAT = "cmsei_fast"
VERSION = 1

_STRINGS = ("ids", "captions", "object_names", "predicate_names")
_ARRAYS = {
    "offsets": np.int64,
    "caption_to_image": np.int64,
    "boxes": np.float32,
    "sizes": np.float32,
    "labels": np.int32,
    "label_scores": np.float32,
    "relations": np.int32,
    "relation_offsets": np.int64,
    "relation_scores": np.float32,
}
_REQUIRED = ("ids", "offsets", "captions", "caption_to_image")
SIGNATURE = b"\x89HDF\r\n\x1a\n"
_HEAP = b"GCOL\x01\0\0\0"  # begins a collection of the global heap
_CHUNK_BYTES = 1 << 20
_ALIGNMENT = 64  # bytes: chunks of features begin at a multiple, so that their numbers can be used where they lie


def write_split(path: str | os.PathLike[str], split: Split, *, progress: bool = False) -> None:
    """Writes a split to a file, reading its features in chunks of about 1 MiB.

    The file appears under its name once it is complete; until then, and after an error, an older file stays.

    Args:
        path: of the file, in an existing directory.
        split: what to write.
        progress: show a bar that counts regions.

    Raises:
        OSError: the file cannot be written.
        TypeError: ``path`` is not a file's name, or ``split`` not a Split.
        ValueError: a string contains a NUL or a lone surrogate; a feature is not finite.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path: expected the name of a file, got {type(path).__name__}")
    if not isinstance(split, Split):
        raise TypeError(f"split: expected a Split, got {type(split).__name__}")
    check_target(path)
    check_room(os.path.dirname(os.path.abspath(path)), _count_bytes(split), os.fspath(path), "the split")
    with replacing(path) as temporary, _RecordingFile(temporary, "w+b") as raw:
        _write(raw, split, progress)
        raw.check()


def _count_bytes(split: Split) -> int:
    """Counts the bytes of the split's numbers; its strings are small beside them."""
    found = sum(array.nbytes for name in _ARRAYS if (array := getattr(split, name)) is not None)
    if split.features is not None:
        found += math.prod(split.features.shape) * split.features.dtype.itemsize
    return found


class _RecordingFile(io.FileIO):
    """A file that keeps write errors from HDF5, which crashes at the end of a process that could not close a file."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Writes all of the data; after an error, nothing."""
        left = memoryview(data).cast("B")
        count = len(left)
        with self._record_error():
            while left and self.error is None:
                left = left[super().write(left) :]
        return count

    def truncate(self, size: int | None = None) -> int:
        """Sets the size of the file; an error is recorded."""
        with self._record_error():
            return super().truncate(size)
        return 0 if size is None else size

    @contextlib.contextmanager
    def _record_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = self.error or error

    def check(self) -> None:
        """Raises the first error, if there was one."""
        if self.error is not None:
            raise self.error


def _write(raw: _RecordingFile, split: Split, progress: bool) -> None:
    with h5py.File(
        raw,
        "w",
        libver=("v110", "v110"),  # checksums of everything but the numbers
        alignment_threshold=_ALIGNMENT,
        alignment_interval=_ALIGNMENT,
    ) as file:
        for name in _STRINGS:
            if getattr(split, name) or name in _REQUIRED:
                _write_strings(file, name, getattr(split, name))
        for name in _ARRAYS:
            if (array := getattr(split, name)) is not None:
                chunks = (max(1, min(len(array), _CHUNK_BYTES // max(1, array[:1].nbytes))), *array.shape[1:])
                maxshape = (None, *array.shape[1:])
                file.create_dataset(name, data=array, chunks=chunks, maxshape=maxshape, fletcher32=True)
        if split.features is not None:
            _write_features(file, raw, split, progress)
        file.attrs["version"] = VERSION
        file.attrs["format"] = FORMAT  # written last: an interrupted file does not have it


def _write_strings(file: h5py.File, name: str, values: tuple[str, ...]) -> None:
    check_strings(lambda i: f"{name}[{i}]", values)
    count = len(values)
    file.create_dataset(
        name, data=list(values), shape=(count,), dtype=h5py.string_dtype(), chunks=(max(1, count),), maxshape=(None,)
    )


def _write_features(file: h5py.File, raw: _RecordingFile, split: Split, progress: bool) -> None:
    features = split.features
    count, width = features.shape
    rows = max(1, _CHUNK_BYTES // (width * features.dtype.itemsize))
    regions = np.diff(split.offsets)
    if (regions == regions[0]).all() and regions[0] <= rows:
        rows -= rows % int(regions[0])  # no image crosses from one chunk into the next
    rows = min(rows, count)
    dataset = file.create_dataset("features", shape=(count, width), dtype=features.dtype, chunks=(rows, width))
    ends = np.stack([split.offsets[:-1], split.offsets[1:] - 1])
    zeros = np.zeros(ends.shape, dtype=bool)  # whether the first region of each image is zeros, and the last
    with tqdm(total=count, unit=" regions", unit_scale=True, disable=not progress) as bar:
        for start in range(0, count, rows):
            block = np.asarray(features[start : start + rows])
            good = np.isfinite(block).all(1)
            if not good.all():
                row = start + int(np.argmin(good))
                image = int(np.searchsorted(split.offsets, row, side="right")) - 1
                numbers = f"finite numbers of {features.dtype}" + " (at most 65504)" * (features.dtype == np.float16)
                source = f"{features.place(image)}: " if hasattr(features, "place") else ""
                raise ValueError(
                    f"{source}features[{row}] (image {split.ids[image]}): expected {numbers}, "
                    f"got {block[row - start][~np.isfinite(block[row - start])][0]}"
                )
            for row, zero in zip(ends, zeros, strict=True):
                here = slice(*np.searchsorted(row, (start, start + len(block))))
                zero[here] = ~block[row[here] - start].any(1)
            dataset[start : start + rows] = block
            raw.check()
            bar.update(len(block))
    ending = np.flatnonzero(zeros[1] & ~zeros[0])
    if len(ending):
        warnings.warn(
            f"features: {len(ending)} of {len(split)} images end in rows of zeros (the first: {split.ids[ending[0]]}), "
            "which count as regions; a split has no padding: leave them out, and out of what offsets count",
            stacklevel=4,
        )


def open_split(path: str | os.PathLike[str]) -> Split:
    """Reads a split from its file; the ``features`` stay in the file, as :class:`MappedRows`.

    Only a memory map of the file stays open, so the split may be passed to the workers of a ``DataLoader``, forked or
    spawned.

    Raises:
        OSError: the file cannot be opened.
        ValueError: naming the file: it is not a split's file, of a newer version, truncated or damaged, or its parts do
            not fit each other.
    """
    with open(path, "rb") as raw:
        start = raw.read(len(SIGNATURE))
    name = os.fspath(path)
    if start != SIGNATURE:
        raise ValueError(f"{name}: expected an HDF5 file by write_split, got a file that begins with {start!r}")
    try:
        with h5py.File(path, "r", locking=False) as file:
            _check_heaps(file, name)
            parts = _read(file, name)
    except _Refused as refused:
        raise ValueError(str(refused)) from None
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{name}: truncated or damaged HDF5 file: {error}") from error
    try:
        return Split(**parts)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from None


class _Refused(Exception):
    """The file is valid HDF5, but not a split's file that this version reads."""


def _check_heaps(file: h5py.File, name: str) -> None:
    """Checks the collections that hold the strings: they have no checksum, and HDF5 never stops reading one with an
    object of size 0. The features are skipped.
    """
    features: list[tuple[int, int]] = []
    if isinstance(dataset := file.get("features"), h5py.Dataset) and dataset.chunks is not None:
        dataset.id.chunk_iter(lambda chunk: features.append((chunk.byte_offset, chunk.byte_offset + chunk.size)))
    with open(name, "rb") as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as data:
        begin = 0
        for start, end in [*sorted(features), (len(data), len(data))]:
            at = data.find(_HEAP, begin, start)
            while at >= 0:
                if not _reaches_end(data, at):
                    raise _Refused(f"{name}: truncated or damaged HDF5 file: nothing is where its strings were")
                at = data.find(_HEAP, at + len(_HEAP), start)
            begin = max(begin, end)


def _reaches_end(data: mmap.mmap, at: int) -> bool:
    """Whether a reader of the collection at that byte, going from object to object, reaches its end."""
    (size,) = struct.unpack_from("<Q", data, at + len(_HEAP)) if at + 16 <= len(data) else (0,)
    place, stop = at + 16, min(at + size, len(data))
    while place + 16 <= stop:
        index, object_size = struct.unpack_from("<H6xQ", data, place)
        object_size = object_size if index == 0 else 16 + -(-object_size // 8) * 8
        if object_size == 0:
            return False
        place += object_size
    return True


def _read(file: h5py.File, name: str) -> dict[str, Any]:
    written = file.attrs.get("format")
    if not isinstance(written, str) or written != FORMAT:
        raise _Refused(f"{name}: expected the attribute format = {FORMAT!r} (a file by write_split), got {written!r}")
    version = file.attrs.get("version")
    if not isinstance(version, (int, np.integer)) or not 1 <= version <= VERSION:
        raise _Refused(
            f"{name}: expected version {VERSION} of the layout, got {version!r}; a newer cmsei_fast may read it"
        )
    missing = [part for part in _REQUIRED if part not in file]
    if missing:
        raise _Refused(f"{name}: missing {'data set' if len(missing) == 1 else 'data sets'} {', '.join(missing)}")
    parts: dict[str, Any] = {}
    for part in _STRINGS:
        if part in file:
            dataset = _dataset(file, part, name)
            if h5py.check_string_dtype(dataset.dtype) is None:
                raise _Refused(f"{name}: {part}: expected strings, got {dataset.dtype}")
            parts[part] = tuple(dataset.asstr()[:].tolist())
    for part, dtype in _ARRAYS.items():
        if part in file:
            dataset = _dataset(file, part, name)
            if dataset.dtype != dtype:
                raise _Refused(f"{name}: {part}: expected {np.dtype(dtype)}, got {dataset.dtype}")
            parts[part] = dataset[...]
    if "features" in file:
        parts["features"] = _map_features(_dataset(file, "features", name), name)
    return parts


def _dataset(file: h5py.File, part: str, name: str) -> h5py.Dataset:
    dataset = file[part]
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        got = "an empty one" if isinstance(dataset, h5py.Dataset) else type(dataset).__name__.lower()
        raise _Refused(f"{name}: {part}: expected a data set, got {got}")
    return dataset


def _map_features(dataset: h5py.Dataset, name: str) -> MappedRows:
    shape, chunks, dtype = dataset.shape, dataset.chunks, dataset.dtype
    plain = dataset.id.get_create_plist().get_nfilters() == 0 and dtype.kind == "f" and dtype.isnative
    if len(shape) != 2 or chunks is None or chunks[1] != shape[1] or not plain:
        raise _Refused(
            f"{name}: features: expected (rows, width) numbers in uncompressed chunks of whole rows, "
            f"got shape {shape}, chunks {chunks}, {dtype}"
        )
    begin, size = [], chunks[0] * chunks[1] * dtype.itemsize
    end = os.path.getsize(name)
    for row in range(0, shape[0], chunks[0]):
        where = dataset.id.get_chunk_info_by_coord((row, 0))
        if where.byte_offset is None or where.byte_offset + size > end or where.size != size:
            raise _Refused(f"{name}: features: expected a chunk of {size} bytes for row {row}, got none in the file")
        begin.append(where.byte_offset)
    return MappedRows(name, shape, dtype, chunks[0], begin)
