"""Scene graphs as JSON lines: one image per line with its labels, boxes, relations and captions."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .corners import instead_of_corners
from .strings import check_string, check_strings

_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class Scene:
    """One image as a detector and a scene-graph generator saw it, with its human-written sentences.

    Args:
        image: name of the image.
        labels: R object labels, one a region.
        boxes: (R, 4) float32, xyxy pixels.
        relations: triplets (subject region, predicate, object region).
        captions: at least one sentence.
        size: width and height of the image in pixels, if known.
    """

    image: str
    labels: tuple[str, ...]
    boxes: np.ndarray
    relations: tuple[tuple[int, str, int], ...]
    captions: tuple[str, ...]
    size: tuple[float, float] | None = None


@dataclass(frozen=True)
class SceneSet:
    """Scenes in the order of their file; captions are numbered across all images, image by image."""

    scenes: tuple[Scene, ...]

    def __len__(self) -> int:
        return len(self.scenes)

    def __iter__(self) -> Iterator[Scene]:
        return iter(self.scenes)

    def __getitem__(self, index: int) -> Scene:
        return self.scenes[index]

    @property
    def captions(self) -> list[str]:
        """All M captions, image by image."""
        return [caption for scene in self.scenes for caption in scene.captions]

    @property
    def caption_to_image(self) -> np.ndarray:
        """(M,) int64: the image of each caption."""
        return np.repeat(np.arange(len(self.scenes)), [len(scene.captions) for scene in self.scenes])


def read_scenes(path: str | os.PathLike[str]) -> SceneSet:
    """Reads a ``.jsonl`` or ``.jsonl.gz`` file of scene graphs.

    Each line is an object with ``image`` (string), ``labels`` (R strings), ``boxes`` (R × xyxy pixels), ``relations``
    (any number of [subject index, predicate, object index]) and ``captions`` (at least one string). It may have
    ``size`` (width and height of the image in pixels), or ``width`` and ``height``. Further keys are ignored, and so
    are blank lines.

    Raises:
        OSError: the file cannot be opened.
        ValueError: naming the file, the line, the key, what was expected and what came; also for an image that an
            earlier line has, a damaged gzip stream, text that is not UTF-8 or contains a NUL, and a file without
            scenes.
    """
    scenes: list[Scene] = []
    seen: dict[str, int] = {}  # image -> its line
    number = 0
    try:
        for line in _lines(path):
            number += 1
            if line.strip():
                scene = _scene(line)
                if (first := seen.setdefault(scene.image, number)) != number:
                    raise ValueError(f"image: expected each image once, got {scene.image!r:.60} as in line {first}")
                scenes.append(scene)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: damaged gzip stream after line {number}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: {error}") from error
    if not scenes:
        raise ValueError(f"{path}: expected at least one scene, got an empty file")
    return SceneSet(tuple(scenes))


def _lines(path: str | os.PathLike[str]) -> Iterator[bytes]:
    with open(path, "rb") as raw:
        compressed = str(path).endswith(".gz") or raw.peek(2)[:2] == _GZIP_MAGIC
        if not compressed:
            yield from raw
            return
        with gzip.GzipFile(fileobj=raw) as stream:
            yield from stream


def _scene(line: bytes) -> Scene:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"expected UTF-8 text, got byte 0x{line[error.start]:02x} at column {error.start + 1}"
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"expected one JSON object, got malformed JSON at column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise ValueError("expected one JSON object, got JSON nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError(f"expected one JSON object, got {_kind(record)}")
    missing = [key for key in ("image", "labels", "boxes", "relations", "captions") if key not in record]
    if missing:
        raise ValueError(f"missing {'key' if len(missing) == 1 else 'keys'} {', '.join(missing)}")
    if not isinstance(record["image"], str):
        raise ValueError(f"image: expected a string, got {_kind(record['image'])}")
    check_string("image", record["image"])
    labels = _strings("labels", record["labels"])
    boxes = _boxes(record["boxes"])
    if len(boxes) != len(labels):
        raise ValueError(f"boxes: expected {len(labels)} (one per label), got {len(boxes)}")
    relations = _relations(record["relations"], len(labels))
    return Scene(record["image"], labels, boxes, relations, _strings("captions", record["captions"]), _size(record))


def _size(record: dict[str, Any]) -> tuple[float, float] | None:
    if "size" in record:
        name, size = "size", record["size"]
    elif "width" in record and "height" in record:
        name, size = "width, height", [record["width"], record["height"]]
    else:
        return None
    numbers = isinstance(size, list) and len(size) == 2 and all(type(x) in (int, float) for x in size)
    if not numbers or not all(0 < x < 1e9 for x in size):
        raise ValueError(f"{name}: expected two numbers of pixels > 0, got {size!r:.60}")
    return float(size[0]), float(size[1])


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _strings(name: str, values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not values:
        got = "an empty list" if isinstance(values, list) else _kind(values)
        raise ValueError(f"{name}: expected a list of at least one string, got {got}")
    for i, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(f"{name}[{i}]: expected a string, got {_kind(value)}")
    check_strings(lambda i: f"{name}[{i}]", values)
    return tuple(values)


def _boxes(values: Any) -> np.ndarray:
    if not isinstance(values, list):
        raise ValueError(f"boxes: expected a list, got {_kind(values)}")
    for i, box in enumerate(values):
        if not isinstance(box, list) or len(box) != 4 or any(type(x) not in (int, float) for x in box):
            raise ValueError(f"boxes[{i}]: expected four numbers x1, y1, x2, y2, got {box!r:.60}")
        if not all(abs(x) < 1e9 for x in box) or box[2] < box[0] or box[3] < box[1]:
            way = instead_of_corners(values)
            raise ValueError(f"boxes[{i}]: expected finite pixels with x1 <= x2 and y1 <= y2, got {box!r:.60}{way}")
    boxes = np.array(values, dtype=np.float32).reshape(-1, 4)
    boxes.flags.writeable = False
    return boxes


def _relations(values: Any, count: int) -> tuple[tuple[int, str, int], ...]:
    if not isinstance(values, list):
        raise ValueError(f"relations: expected a list, got {_kind(values)}")
    for i, triplet in enumerate(values):
        well_formed = isinstance(triplet, list) and [type(x) for x in triplet] == [int, str, int]
        if not well_formed or not (0 <= triplet[0] < count and 0 <= triplet[2] < count):
            raise ValueError(
                f"relations[{i}]: expected [subject, predicate, object] with indices from 0 to {count - 1}, "
                f"got {triplet!r:.60}"
            )
    check_strings(lambda i: f"relations[{i}]", [triplet[1] for triplet in values])
    return tuple((triplet[0], triplet[1], triplet[2]) for triplet in values)
