"""The file names of images that a release identifies by numbers."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..json_object import read_json
from ..strings import check_string


def file_names(path: str | os.PathLike[str], numbers: Sequence[str]) -> list[str]:
    """The file names of images, by the numbers of SCAN's ``{split}_ids.txt``.

    Args:
        path: VSE∞'s ``id_mapping.json``, an object of numbers and file names; or Karpathy's ``dataset_*.json``, whose
            images have a ``filename`` and a number: ``cocoid`` where there is one, else ``imgid``.
        numbers: of the images.

    Raises:
        OSError: the file cannot be opened.
        ValueError: naming the file: malformed, or without one of the numbers.
    """
    record = read_json(path)
    names = _names_by_number(path, record["images"]) if isinstance(record.get("images"), list) else record
    found = []
    for number in numbers:
        name = names.get(number)
        if not isinstance(name, str) or not name:
            got = "none" if number not in names else f"{name!r:.60}"
            raise ValueError(f"{path}: expected the file name of image {number!r}, got {got}")
        check_string(f"{path}: {number}", name)
        found.append(name)
    if len(set(found)) < len(found):
        twice = Counter(found).most_common(1)[0][0]
        raise ValueError(f"{path}: expected a file name for each image, got {twice!r} for two of them")
    return found


def _names_by_number(path: str | os.PathLike[str], images: list[Any]) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for i, image in enumerate(images):
        number = image.get("cocoid", image.get("imgid")) if isinstance(image, dict) else None
        if type(number) is not int or "filename" not in image:
            raise ValueError(f"{path}: images[{i}]: expected filename and imgid or cocoid, got {image!r:.80}")
        names[str(number)] = image["filename"]
    return names
