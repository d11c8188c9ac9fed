"""Folders of ``.npz`` files, one per image, as bottom-up-attention.pytorch writes them."""

from __future__ import annotations

import contextlib
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from ..split import Split, offsets_from_counts
from .boxes import check_inside
from .captions import Captions
from .matching import match_images
from .npy import DAMAGED, read_head, short_message
from .rows import ImageRows

_T = TypeVar("_T")


def npz_split(
    directory: str | os.PathLike[str],
    captions: Captions | None = None,
    *,
    dtype: Any = np.float32,
    progress: bool = False,
) -> Split:
    """The split of a folder of files with ``x`` (R, Dx), ``bbox`` (R, 4), ``num_bbox``, ``image_w`` and ``image_h``.

    Files are named after their image. R may vary. Anything else in them (``info`` is a pickle) is not read. Features
    are read a file at a time when they are sliced.

    Args:
        directory: the folder.
        captions: whose images make the split, in their order; without, all images by name and no captions.
        dtype: of the split's features.
        progress: show a bar while boxes are read.

    Raises:
        OSError: the folder or a file cannot be opened.
        ValueError: naming the file and the entry; an image has captions and is not there.
    """
    files = sorted(name for name in os.listdir(directory) if name.endswith(".npz"))
    if not files:
        raise ValueError(f"{os.fspath(directory)}: expected .npz files, got none")
    chosen = match_images([name.removesuffix(".npz") for name in files], directory, captions)
    paths = [Path(directory) / files[i] for i in chosen.order]
    boxes, sizes, width = [], [], 0
    for path in tqdm(paths, unit=" images", desc="boxes", disable=not progress):
        image_boxes, size, features = _guard(path, _read_boxes)
        if features != (len(image_boxes), width or features[1]):
            raise ValueError(f"{path}: x: expected shape ({len(image_boxes)}, {width or 'Dx'}), got {features}")
        width = features[1]
        boxes.append(image_boxes)
        sizes.append(size)
    offsets = offsets_from_counts([len(image_boxes) for image_boxes in boxes])
    return Split(
        ids=chosen.ids,
        offsets=offsets,
        captions=chosen.captions,
        caption_to_image=chosen.caption_to_image,
        features=ImageRows(offsets, width, lambda i: _guard(paths[i], _read_features), lambda i: str(paths[i]), dtype),
        boxes=np.concatenate(boxes),
        sizes=np.array(sizes, dtype=np.float32),
    )


def _guard(path: Path, read: Callable[[Path], _T]) -> _T:
    try:
        return read(path)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, *DAMAGED) as error:
        raise ValueError(f"{path}: truncated or damaged .npz file: {short_message(error)}") from error
    except OSError as error:
        if error.filename is not None:
            raise
        raise ValueError(
            f"{path}: truncated or damaged .npz file: {short_message(error)}"
        ) from error  # a place before its begin
    except KeyError as error:
        raise ValueError(f"{path}: missing {error.args[0]}") from None
    except MemoryError as error:
        raise MemoryError(f"{path}: {str(error) or 'out of memory'}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _read_boxes(path: Path) -> tuple[np.ndarray, tuple[float, float], tuple[int, int]]:
    """(R, 4) float32 boxes, width and height of the image, shape of the features."""
    with _open(path) as file:
        boxes = _entry(file, "bbox")
        if boxes.dtype.kind not in "iuf":
            raise ValueError(f"bbox: expected numbers, got {boxes.dtype}")
        boxes = boxes.astype(np.float32)
        count, width, height = (_number(file, name) for name in ("num_bbox", "image_w", "image_h"))
        if count < 1:
            raise ValueError(f"num_bbox: expected at least one region, got {count:g}")
        if boxes.ndim != 2 or boxes.shape != (count, 4):
            raise ValueError(f"bbox: expected shape ({count:g}, 4) (num_bbox), got {boxes.shape}")
        check_inside("bbox", boxes, width, height)
        if "x" not in file.files:
            raise KeyError("x")
        shape, kind = _head(file, "x")
    if len(shape) != 2 or shape[1] < 1 or kind.kind != "f":
        raise ValueError(f"x: expected floating numbers of shape ({len(boxes)}, Dx), got {kind} of shape {shape}")
    return boxes, (width, height), (shape[0], shape[1])


def _read_features(path: Path) -> np.ndarray:
    with _open(path) as file:
        return _entry(file, "x")


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    with path.open("rb") as raw:  # numpy leaves a file that is no archive open
        start = raw.read(6)
        if start and not start.startswith((b"PK", b"\x93NUMPY")):
            raise ValueError(f"expected a .npz file, got one that begins with {start!r}")
        raw.seek(0)
        with _short_errors():
            file = np.load(raw, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError(f"expected a .npz file, got an array of shape {file.shape}")
        with file:
            yield file


@contextlib.contextmanager
def _short_errors() -> Iterator[None]:
    """Shortens numpy's ValueError, which quotes a whole damaged head."""
    try:
        yield
    except ValueError as error:
        raise ValueError(short_message(error)) from None


def _head(file: Any, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of an entry."""
    entry = name if name in file.zip.namelist() else f"{name}.npy"  # as numpy chooses where both are there
    if file.zip.getinfo(entry).flag_bits & 1:
        raise ValueError(f"{name}: expected an archive without a password, got one that asks for it")
    with file.zip.open(entry) as stream:
        if stream.peek(6)[:6] != b"\x93NUMPY":
            raise ValueError(f"{name}: expected an array, got other bytes")
        with _short_errors():
            return read_head(stream, file.zip.getinfo(entry).file_size)


def _entry(file: Any, name: str) -> np.ndarray:
    if name not in file.files:
        raise KeyError(name)
    _head(file, name)
    with _short_errors():
        value: np.ndarray = file[name]
    return value


def _number(file: Any, name: str) -> float:
    value = _entry(file, name)
    if value.size != 1 or value.dtype.kind not in "iuf":
        raise ValueError(f"{name}: expected one number, got {value.dtype} of shape {value.shape}")
    number = float(value.reshape(()))
    if not abs(number) <= float(np.finfo(np.float32).max):
        raise ValueError(f"{name}: expected a finite number, got {number:g}")
    return number
