"""SCAN's precomputed features: ``{split}_ims.npy``, ``{split}_caps.txt``, ``{split}_ids.txt``; boxes beside them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..split import Split, offsets_from_counts
from .boxes import check_inside
from .file_names import file_names
from .npy import map_npy
from .rows import ImageRows
from .text import blank_line, read_lines

_BOXES = (("_ims_bbx.npy", "_ims_size.npy"), ("_boxes.npy", "_img_sizes.npy"))  # GSMN's names, CAMERA's names


def scan_split(
    directory: str | os.PathLike[str],
    split: str,
    *,
    captions_per_image: int = 5,
    id_mapping: str | os.PathLike[str] | None = None,
    dtype: Any = np.float32,
    progress: bool = False,
) -> Split:
    """The split of a directory of SCAN's; features stay in their file until they are sliced.

    There are k captions an image, in the order of the images. The array of features has one entry an image, or one a
    caption: then the k entries of an image must be equal, and the first is taken. If there are as many entries as
    captions and the first two differ, each image has one caption.

    Rows of zeros behind the last region of an image, which make up for its fewer regions, are left out, and their boxes
    with them. An entry of zeros alone stays whole.

    Boxes and image sizes (width, height) are taken from ``{split}_ims_bbx.npy`` and ``{split}_ims_size.npy``, or from
    ``{split}_boxes.npy`` and ``{split}_img_sizes.npy``, where these files are there. Without ``{split}_ids.txt`` images
    are named by their number.

    Args:
        directory: of the files.
        split: ``train``, ``dev``, ``test`` or ``testall``.
        captions_per_image: k.
        id_mapping: file with the file names of the numbers in ``{split}_ids.txt`` (:mod:`.file_names`); None keeps what
            stands there.
        dtype: of the split's features.
        progress: show a bar while copies of an image are compared.

    Raises:
        OSError: a file is not there or cannot be opened.
        ValueError: naming the file, what was expected and what came.
    """
    base = Path(directory)
    if base.is_file():
        raise NotADirectoryError(f"directory: expected that of SCAN's files, got the file {base}")
    path = base / f"{split}_ims.npy"
    if not path.exists() and (there := sorted(x.name[: -len("_ims.npy")] for x in base.glob("*_ims.npy"))):
        raise FileNotFoundError(f"split: expected one of {', '.join(there)} (those in {base}), got {split!r}")
    images = map_npy(path, 3)
    captions = read_lines(base / f"{split}_caps.txt")
    entries, regions, width = images.shape
    if len(captions) == entries and captions_per_image > 1:
        step = captions_per_image if entries > 1 and _are_copies(images[0], images[1]) else 1
        per_image = step
        if entries % step:
            raise ValueError(f"{path}: expected copies in groups of {step}, got {entries} images")
    else:
        step, per_image = 1, captions_per_image
    count = entries // step
    if len(captions) != count * per_image:
        each, rest = divmod(len(captions), entries)
        fit = f"; captions_per_image={each} would fit" if each and not rest else ""
        raise ValueError(
            f"{base / f'{split}_caps.txt'}: expected {entries} captions or {captions_per_image} × {entries} "
            f"({path.name} has {entries} images), got {len(captions)}{blank_line(captions)}{fit}"
        )
    ids = _ids(base / f"{split}_ids.txt", count, per_image, id_mapping)
    lengths = [_region_count(images[i * step]) for i in range(count)]
    boxes, sizes = _boxes(base, split, entries, step, lengths, regions)
    if step > 1:  # last: it reads all features
        _check_copies(path, images, step, progress)
    offsets = offsets_from_counts(lengths)
    return Split(
        ids=ids,
        offsets=offsets,
        captions=tuple(captions),
        caption_to_image=np.repeat(np.arange(count), per_image),
        features=ImageRows(offsets, width, lambda i: images[i * step], lambda _: str(path), dtype),
        boxes=boxes,
        sizes=sizes,
    )


def _region_count(entry: np.ndarray) -> int:
    """Counts the rows of an entry (R, Dx) up to the last that is not zero; all rows if every row is zero."""
    if entry[-1].any():  # so that only the last row of most entries is read
        return len(entry)
    filled = np.flatnonzero(entry.any(1))
    return int(filled[-1]) + 1 if len(filled) else len(entry)


def _check_copies(path: Path, images: np.ndarray, step: int, progress: bool) -> None:
    for first in tqdm(range(0, len(images), step), unit=" images", desc="comparing copies", disable=not progress):
        for i in range(first + 1, first + step):
            if not _are_copies(images[first], images[i]):
                raise ValueError(f"{path}: expected {step} copies of each image, got image {i} unlike image {first}")


def _are_copies(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two entries are equal; equal NaNs count, since features with NaNs are refused elsewhere."""
    return np.array_equal(a, b) or np.array_equal(a, b, equal_nan=True)


def _ids(path: Path, count: int, per_image: int, id_mapping: str | os.PathLike[str] | None) -> tuple[str, ...]:
    if id_mapping is not None and path.exists():
        return tuple(file_names(id_mapping, _ids(path, count, per_image, None)))
    if not path.exists():
        if id_mapping is not None:
            raise FileNotFoundError(
                f"{path}: expected the numbers that {id_mapping} has file names of, got no such file"
            )
        return tuple(map(str, range(count)))
    lines = read_lines(path)
    if len(lines) == count:
        return _check_unique(path, lines, 1)
    if len(lines) != count * per_image:
        got = f"{len(lines)}{blank_line(lines)}"
        raise ValueError(f"{path}: expected {count} lines or {per_image} × {count}, got {got}")
    for i, line in enumerate(lines):
        if line != lines[i - i % per_image]:
            raise ValueError(
                f"{path}, line {i + 1}: expected each name {per_image} times in a row, got {line!r} after "
                f"{lines[i - i % per_image]!r}"
            )
    return _check_unique(path, lines[::per_image], per_image)


def _check_unique(path: Path, names: list[str], step: int) -> tuple[str, ...]:
    """Returns the names if they are unique; each is on ``step`` lines."""
    place: dict[str, int] = {}
    for i, name in enumerate(names):
        if (first := place.setdefault(name, i)) != i:
            raise ValueError(
                f"{path}, line {i * step + 1}: expected each image once, got {name!r} as in line {first * step + 1}"
            )
    return tuple(names)


def _boxes(
    base: Path, split: str, entries: int, step: int, lengths: list[int], regions: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Boxes (ΣR, 4) and sizes (N, 2), float32, or two None without boxes; ``regions`` of an entry include padding."""
    for box_name, size_name in _BOXES:
        box_path, size_path = base / f"{split}{box_name}", base / f"{split}{size_name}"
        if box_path.exists():
            break
    else:
        return None, None
    count = entries // step
    boxes, sizes = _per_image(box_path, 3, (regions, 4), count, step), _sizes(size_path, count, step)
    sizes = sizes.astype(np.float32)
    kept = [image_boxes[:n].astype(np.float32) for image_boxes, n in zip(boxes, lengths, strict=True)]
    for i, (image_boxes, (width, height)) in enumerate(zip(kept, sizes, strict=True)):
        check_inside(f"{box_path}, image {i}", image_boxes, float(width), float(height))
    return np.concatenate(kept), sizes


def _per_image(path: Path, rank: int, shape: tuple[int, ...], count: int, step: int) -> np.ndarray:
    array = map_npy(path, rank)
    if array.shape[1:] != shape or len(array) not in (count, count * step):
        raise ValueError(f"{path}: expected shape {(count, *shape)}, one per image, got {array.shape}")
    return array if len(array) == count else array[::step]


def _sizes(path: Path, count: int, step: int) -> np.ndarray:
    try:
        return _per_image(path, 2, (2,), count, step)
    except ValueError as error:
        if "pickled" not in str(error):
            raise
        name = str(path)
        fix = f"[[s['image_w'], s['image_h']] for s in np.load({name!r}, allow_pickle=True, encoding='latin1')]"
        raise ValueError(
            f"{error}; if you trust the file, this makes numbers of it: np.save({name!r}, {fix})"
        ) from None
