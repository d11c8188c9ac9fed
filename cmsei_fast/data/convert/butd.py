"""Bottom-up-attention's tab-separated files: an image per line, its boxes and features as base64 of float32."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from ..split import Split, offsets_from_counts
from ..strings import check_string
from .boxes import check_inside
from .captions import Captions
from .matching import image_key, match_images
from .rows import ImageRows

_FIELDS = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")


@dataclass(frozen=True)
class _Line:
    """The place of an image's line in its file, and its content without the features."""

    path: str
    number: int
    begin: int
    name: str
    size: tuple[int, int]
    boxes: np.ndarray
    width: int

    @property
    def place(self) -> str:
        return f"{self.path}, line {self.number}"


def butd_split(
    paths: Iterable[str | os.PathLike[str]],
    captions: Captions | None = None,
    *,
    dtype: Any = np.float32,
    progress: bool = False,
) -> Split:
    """The split of one or more tsv files (image_id, image_w, image_h, num_boxes, boxes, features); R may vary.

    The files are read once for everything but the features, which are read line by line when they are sliced. Lines of
    images that the captions do not name are passed over, whatever is in them: published files have damaged ones.

    Args:
        paths: the files, as one.
        captions: whose images make the split, in their order; without, all images and no captions.
        dtype: of the split's features.
        progress: show a bar while the files are read.

    Raises:
        OSError: a file cannot be opened.
        ValueError: naming the file, the line and the field; an image is there twice, or has captions and is not there.
    """
    names = [os.fspath(path) for path in paths]
    wanted = None if captions is None else {image_key(name) for name in captions.images}
    lines = [line for name in names for line in _index(name, wanted, progress)]
    source = ", ".join(names)
    if not lines and captions is None:
        raise ValueError(f"{source}: expected at least one image, got an empty file")
    for line in lines:
        if line.width != lines[0].width:
            raise ValueError(f"{line.place}: features: expected {lines[0].width} numbers per box, got {line.width}")
    chosen = match_images([line.name for line in lines], source, captions, [line.place for line in lines])
    kept = [lines[i] for i in chosen.order]
    offsets = offsets_from_counts([len(line.boxes) for line in kept])
    return Split(
        ids=chosen.ids,
        offsets=offsets,
        captions=chosen.captions,
        caption_to_image=chosen.caption_to_image,
        features=ImageRows(offsets, kept[0].width, lambda i: _features(kept[i]), lambda i: kept[i].place, dtype),
        boxes=np.concatenate([line.boxes for line in kept]),
        sizes=np.array([line.size for line in kept], dtype=np.float32),
    )


def _index(path: str, wanted: set[str] | None, progress: bool) -> list[_Line]:
    """Reads the lines of the images whose keys are wanted; None: of all images."""
    lines, begin = [], 0
    with (
        open(path, "rb") as file,
        tqdm(total=os.path.getsize(path), unit="B", unit_scale=True, disable=not progress) as bar,
    ):
        for number, raw in enumerate(file, 1):
            if raw.strip() and (wanted is None or _key(raw) in wanted):
                try:
                    lines.append(_line(path, number, begin, raw))
                except ValueError as error:
                    raise ValueError(f"{path}, line {number}: {error}") from None
            begin += len(raw)
            bar.update(len(raw))
    return lines


def _key(raw: bytes) -> str:
    return image_key(raw.partition(b"\t")[0].decode("utf-8", "replace"))


def _line(path: str, number: int, begin: int, raw: bytes) -> _Line:
    fields = raw.rstrip(b"\r\n").split(b"\t")
    if len(fields) != len(_FIELDS):
        raise ValueError(f"expected {len(_FIELDS)} fields ({', '.join(_FIELDS)}), got {len(fields)}")
    width, height, count = (_integer(name, field) for name, field in zip(_FIELDS[1:4], fields[1:4], strict=True))
    boxes = np.frombuffer(_decode("boxes", fields[4]), dtype="<f4")
    if len(boxes) != 4 * count:
        raise ValueError(f"boxes: expected {count} × 4 float32 numbers (num_boxes), got {len(boxes)} numbers")
    boxes = boxes.reshape(count, 4).astype(np.float32)
    check_inside("boxes", boxes, width, height)
    size, rest = divmod(len(fields[5]) // 4 * 3 - fields[5][-2:].count(b"="), 4 * count)
    if len(fields[5]) % 4 or rest or not size:
        raise ValueError(f"features: expected base64 of {count} × Dx float32 numbers, got {len(fields[5])} characters")
    name = fields[0].decode("utf-8")
    check_string("image_id", name)
    return _Line(path, number, begin, name, (width, height), boxes, size)


def _integer(name: str, field: bytes) -> int:
    if not field.isdigit() or not 0 < int(field) < 1 << 31:
        raise ValueError(f"{name}: expected an integer > 0, got {field.decode('latin-1')!r:.40}")
    return int(field)


def _decode(name: str, field: bytes) -> bytes:
    try:
        content = base64.b64decode(field, validate=True)
    except binascii.Error as error:
        raise ValueError(f"{name}: expected base64, got {field[:20]!r}… ({error})") from None
    if len(content) % 4:
        raise ValueError(f"{name}: expected base64 of float32 numbers, got {len(content)} bytes")
    return content


def _features(line: _Line) -> np.ndarray:
    """(R, width) float32."""
    with open(line.path, "rb") as file:
        file.seek(line.begin)
        field = file.readline().rstrip(b"\r\n").split(b"\t")[-1]
    try:
        rows = np.frombuffer(_decode("features", field), dtype="<f4")
        return rows.reshape(len(line.boxes), line.width)
    except ValueError as error:
        raise ValueError(f"{line.place}: {error}") from None
