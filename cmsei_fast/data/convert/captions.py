"""Captions for images whose features come from elsewhere, in the formats of their files."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..json_object import read_json
from ..strings import check_string
from .text import blank_line, read_lines


@dataclass(frozen=True)
class Captions:
    """M captions of N images.

    Args:
        source: the file, for messages.
        images: N image names.
        captions: M sentences.
        caption_to_image: (M,) int64.
    """

    source: str
    images: tuple[str, ...]
    captions: tuple[str, ...]
    caption_to_image: np.ndarray


def caption_lines(path: str | os.PathLike[str], ids: str | os.PathLike[str]) -> Captions:
    """Captions, one a line, with the file of their images' names.

    The file of names has one line a caption, or one line an image if each image has the same number of captions.

    Raises:
        OSError: a file cannot be opened.
        ValueError: naming the file: not UTF-8, a NUL, empty, or another number of lines.
    """
    captions, names = read_lines(path), read_lines(ids)
    per_name, rest = divmod(len(captions), len(names))
    if rest or not per_name:
        expected = f"one line for each of {len(captions)} captions{blank_line(captions)} or a divisor"
        raise ValueError(f"{ids}: expected {expected}, got {len(names)}{blank_line(names)}")
    if per_name > 1:
        if len(set(names)) < len(names):
            twice = Counter(names).most_common(1)[0][0]
            raise ValueError(f"{ids}: expected one line per image, each name once, got {twice!r} twice")
        names = [name for name in names for _ in range(per_name)]
    return _collect(str(path), list(zip(names, captions, strict=True)))


def caption_table(path: str | os.PathLike[str]) -> Captions:
    """Captions with their image's name and a tab before them, as in Flickr30k's ``.token`` (``1.jpg#0<TAB>caption``).

    Raises:
        OSError: the file cannot be opened.
        ValueError: naming the file and the line: not UTF-8, a NUL, or no tab.
    """
    pairs = []
    for number, line in enumerate(read_lines(path), 1):
        name, tab, caption = line.partition("\t")
        if not tab:
            raise ValueError(f"{path}, line {number}: expected an image's name, a tab and a caption, got {line!r:.60}")
        pairs.append((re.sub(r"#\d+$", "", name), caption.strip()))
    return _collect(str(path), pairs)


def karpathy_captions(path: str | os.PathLike[str], splits: Sequence[str]) -> Captions:
    """The captions of some splits of ``dataset_flickr30k.json`` or ``dataset_coco.json``.

    Raises:
        OSError: the file cannot be opened.
        ValueError: naming the file and the image: malformed, a key is missing, a filename is there twice in these
            splits, a NUL is in a name or a sentence, or no image is of them.
    """
    record = read_json(path)
    if "annotations" in record:
        raise ValueError(f"{path}: expected images with their split, got MS-COCO's annotations (without --split)")
    images = _require_list(path, record, "images")
    pairs, found = [], set()
    place: dict[str, int] = {}
    for i, image in enumerate(images):
        name, split, sentences = _karpathy_image(f"{path}: images[{i}]", image)
        found.add(split)
        if split in splits:
            if (first := place.setdefault(name, i)) != i:
                raise ValueError(
                    f"{path}: images[{i}]: expected each filename once, got {name!r} as in images[{first}]"
                )
            check_string(f"{path}: images[{i}]: filename", name)
            for j, sentence in enumerate(sentences):
                check_string(f"{path}: images[{i}]: sentences[{j}]", sentence)
                pairs.append((name, sentence))
    absent = [split for split in splits if split not in found]
    if absent:
        raise ValueError(f"{path}: expected images of split {absent[0]!r}, got splits {', '.join(sorted(found))}")
    return _collect(str(path), pairs)


def coco_captions(path: str | os.PathLike[str]) -> Captions:
    """The captions of MS-COCO's own ``captions_val2014.json`` and the like, in the order of its images.

    Images without a caption are left out.

    Raises:
        OSError: the file cannot be opened.
        ValueError: naming the file and the image or annotation: malformed, a key is missing, an image twice, an
            annotation of none, or a NUL in a name or a caption.
    """
    record = read_json(path)
    if "annotations" not in record:
        raise ValueError(
            f"{path}: expected MS-COCO's annotations (a dataset_*.json goes with --split), got {', '.join(record):.60}"
        )
    sentences: dict[int, list[str]] = {}
    names: dict[int, str] = {}
    place: dict[str, int] = {}
    for i, image in enumerate(_require_list(path, record, "images")):
        name, number = (image.get(key) for key in ("file_name", "id")) if isinstance(image, dict) else (None, None)
        if not isinstance(name, str) or type(number) is not int or number in names:
            raise ValueError(f"{path}: images[{i}]: expected file_name and an id of its own, got {image!r:.80}")
        if (first := place.setdefault(name, i)) != i:
            raise ValueError(f"{path}: images[{i}]: expected each file_name once, got {name!r} as in images[{first}]")
        check_string(f"{path}: images[{i}]: file_name", name)
        names[number], sentences[number] = name, []
    for i, note in enumerate(_require_list(path, record, "annotations")):
        number, caption = (note.get(key) for key in ("image_id", "caption")) if isinstance(note, dict) else (None, None)
        if type(number) is not int or number not in names or not isinstance(caption, str):
            expected = "the image_id of one of images and a caption"
            raise ValueError(f"{path}: annotations[{i}]: expected {expected}, got {note!r:.80}")
        check_string(f"{path}: annotations[{i}]: caption", caption)
        sentences[number].append(" ".join(caption.split()))
    return _collect(str(path), [(names[number], caption) for number in names for caption in sentences[number]])


def first_captions(captions: Captions, count: int) -> Captions:
    """The first ``count`` captions of each image, in their order; all of an image that has no more.

    Some images of MS-COCO have six or seven captions. The splits of the field keep five.
    """
    rank, seen = [], Counter[int]()
    for image in captions.caption_to_image.tolist():
        rank.append(seen[image])
        seen[image] += 1
    kept = [i for i, place in enumerate(rank) if place < count]
    chosen = tuple(captions.captions[i] for i in kept)
    return replace(captions, captions=chosen, caption_to_image=captions.caption_to_image[kept])


def _require_list(path: str | os.PathLike[str], record: dict[str, Any], key: str) -> list[Any]:
    values = record.get(key)
    if not isinstance(values, list):
        raise ValueError(f"{path}: {key}: expected a list, got {values!r:.60}")
    return values


def _karpathy_image(where: str, image: Any) -> tuple[str, str, list[str]]:
    """File name, split and sentences."""
    try:
        name, split = image["filename"], image["split"]
        sentences = [" ".join(sentence["raw"].split()) for sentence in image["sentences"]]
    except (KeyError, TypeError, AttributeError):
        name = split = sentences = None
    if not isinstance(name, str) or not isinstance(split, str) or not sentences:
        expected = "an object with filename, split and at least one of sentences (each with raw)"
        raise ValueError(f"{where}: expected {expected}, got {image!r:.80}")
    return name, split, sentences


def _collect(source: str, pairs: list[tuple[str, str]]) -> Captions:
    number: dict[str, int] = {}
    images = [number.setdefault(name, len(number)) for name, _ in pairs]
    return Captions(source, tuple(number), tuple(c for _, c in pairs), np.array(images, dtype=np.int64))
