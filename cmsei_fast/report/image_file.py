"""Reads an image's file, to draw it under the boxes."""

from __future__ import annotations

import os

import numpy as np

from .extras import require


def read_image(path: str | os.PathLike[str], name: str = "image") -> np.ndarray:
    """(H, W, 3) uint8 pixels of an image file.

    Raises:
        ValueError: there is no such file or it is no image, naming the argument ``name``.
        ModuleNotFoundError: Pillow is not installed.
    """
    require(name, "Pillow")
    from PIL import Image

    try:
        with Image.open(path) as opened:
            return np.asarray(opened.convert("RGB"))
    except OSError as error:
        raise ValueError(f"{name}: expected an image file, got {os.fspath(path)} ({error})") from None
