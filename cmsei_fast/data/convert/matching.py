"""Matches the images of a source with those of a captions file, by name."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .captions import Captions

_NUMBERED = re.compile(r"(?:COCO_\w+_)?0*(\d+)")


def image_key(name: str) -> str:
    """What two names of an image share: no directory, no ending; of ``COCO_val2014_000000391895`` the number."""
    stem = re.split(r"[/\\]", name)[-1]
    stem = re.sub(r"\.(jpe?g|png|npz|npy)$", "", stem, flags=re.IGNORECASE)
    match = _NUMBERED.fullmatch(stem)
    return match[1] if match else stem


@dataclass(frozen=True)
class Matched:
    """Which images of a source make the split, and their captions.

    Args:
        order: the source's number of each of the N images.
        ids: N image names.
        captions: M sentences.
        caption_to_image: (M,) int64.
    """

    order: tuple[int, ...]
    ids: tuple[str, ...]
    captions: tuple[str, ...]
    caption_to_image: np.ndarray


def match_images(
    names: Sequence[str],
    source: str | os.PathLike[str],
    captions: Captions | None,
    places: Sequence[str] | None = None,
) -> Matched:
    """The images that have captions, in the order of the captions' file; all, without captions, if there is none.

    Names agree by :func:`image_key`.

    Args:
        names: of the images in the source.
        source: the source, for messages.
        captions: what was read, or None.
        places: where each image of the source lies, for messages.

    Raises:
        ValueError: an image is twice in the source or the captions, or has captions and is not in the source.
    """
    place: dict[str, int] = {}
    for i, name in enumerate(names):
        if (first := place.setdefault(image_key(name), i)) != i:
            got = f"{name!r} twice" if names[first] == name else f"{names[first]!r} and {name!r}"
            at = "" if places is None else f" ({places[first]} and {places[i]})"
            raise ValueError(f"{source}: expected each image once, got {got}{at}")
    if captions is None:
        return Matched(tuple(range(len(names))), tuple(names), (), np.zeros(0, dtype=np.int64))
    keys = [image_key(name) for name in captions.images]
    if len(set(keys)) < len(keys):
        twice = captions.images[keys.index(Counter(keys).most_common(1)[0][0])]
        raise ValueError(f"{captions.source}: expected one name per image, got {twice!r} under another name too")
    missing = [name for name, key in zip(captions.images, keys, strict=True) if key not in place]
    if missing:
        raise ValueError(
            f"{source}: expected the {len(keys)} images of {captions.source}, {len(missing)} are missing, "
            f"{missing[0]!r} the first"
        )
    order = tuple(place[key] for key in keys)
    return Matched(order, captions.images, captions.captions, captions.caption_to_image)
