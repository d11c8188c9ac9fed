"""Reads saved score matrices and the image of each caption, for ``cmsei-fast report``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .sources import read_captions, why_no_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from ..data import Split


def open_scores(path: str, split: Split | None, name: str | None) -> np.ndarray:
    """Opens a matrix (n_image, n_caption), memory-mapped, and checks its shape against the split.

    Args:
        path: a ``.npy`` file.
        split: what was scored, if known.
        name: name of the split for messages.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming the file, if it holds no floating matrix or one of another shape.
    """
    import zipfile

    import numpy as np

    from ..data.convert.npy import DAMAGED_HEAD

    if not Path(path).is_file():
        raise FileNotFoundError(f"--scores: expected a .npy file, got {path} ({why_no_file(path)})")
    try:
        scores: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, zipfile.BadZipFile, *DAMAGED_HEAD):
        got = _describe_truncation(path) or f"another or a pickled one{_suggest_conversion(path)}"
        raise ValueError(f"{path}: expected a .npy file of one floating matrix, got {got}") from None
    if not isinstance(scores, np.ndarray) or scores.ndim != 2 or scores.dtype.kind != "f":
        got = (
            f"{scores.dtype} {scores.shape}"
            if isinstance(scores, np.ndarray)
            else f"an archive{_suggest_conversion(path)}"
        )
        raise ValueError(f"{path}: expected a floating matrix (n_image, n_caption), got {got}")
    if split is not None and scores.shape != (shape := (len(split), split.n_captions)):
        hint = " (its transpose has it)" if scores.shape == shape[::-1] else ""
        raise ValueError(f"{path}: expected shape {shape} (images, captions of {name}), got {scores.shape}{hint}")
    return scores


def average_scores(paths: Sequence[str], split: Split | None, name: str | None) -> np.ndarray:
    """Averages matrices (n_image, n_caption), an ensemble of any models; a single one is memory-mapped.

    Args:
        paths: one or more ``.npy`` files.
        split, name: as in :func:`open_scores`.

    Returns:
        The mean of several in float32, or in float64 if one of them is.

    Raises:
        FileNotFoundError, ValueError: as :func:`open_scores` does; ValueError: for matrices of different shapes.
        MemoryError: if the mean of several does not fit.
    """
    import numpy as np
    import torch

    from ..checks import check_memory

    found = [open_scores(path, split, name) for path in paths]
    if len(found) == 1:
        return found[0]
    first = found[0]
    for path, scores in zip(paths, found, strict=True):
        if scores.shape != first.shape:
            hint = " (its transpose has it)" if scores.shape == first.shape[::-1] else ""
            raise ValueError(f"{path}: expected shape {first.shape} (as {paths[0]}), got {scores.shape}{hint}")
    wide = any(scores.dtype.itemsize > 4 for scores in found)
    dtype = np.dtype(np.float64 if wide else np.float32)
    check_memory(first.shape, dtype.itemsize, torch.device("cpu"))
    out = np.zeros(first.shape, dtype)
    for scores in found:
        out += scores
    out /= len(found)
    return out


def _describe_truncation(path: str) -> str:
    """Describes a truncated file; "" for any other."""
    from ..data.convert.npy import DAMAGED, read_head

    try:
        with open(path, "rb") as file:
            read_head(file, os.fstat(file.fileno()).st_size)
    except EOFError as error:
        return f"a truncated one: {error}"
    except (ValueError, *DAMAGED):
        pass
    return ""


def _suggest_conversion(path: str) -> str:
    """Suggests the line of Python that converts scores saved by other projects; "" for an unknown format."""
    with open(path, "rb") as file:
        head = file.read(128)
    if head.startswith(b"\x93NUMPY") and b"'|O'" in head:  # as of VSE∞: {'npts': …, 'sims': …}
        expression, caution = f"np.load({path!r}, allow_pickle=True).item()['sims']", ", if you trust the file"
    elif head.startswith(b"PK") and (arrays := _array_names(path)):
        expression, caution = f"np.load({path!r})[{arrays[0]!r}]", ""
    elif head.startswith(b"PK"):  # torch.save, as in IMRAM's
        expression, caution = f"torch.load({path!r}, weights_only=False)", ", if you trust the file"
    elif path.endswith(".txt"):  # numpy.savetxt, as in ESL's
        expression, caution = f"np.loadtxt({path!r})", ""
    else:
        return ""
    return f"; this makes one{caution}: np.save('scores.npy', {expression})"


def _array_names(path: str) -> list[str]:
    """The names of the arrays in a file of numpy.savez; empty for any other zip file."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return []
    return [name.removesuffix(".npy") for name in names if name.endswith(".npy")]


def _check_count(shape: tuple[int, ...], captions_per_image: int) -> None:
    """Checks the number of captions per image where no file gives the image of each.

    Raises:
        ValueError: naming the number that would fit, if there is one.
    """
    n_image, n_caption = shape
    if n_caption == n_image * captions_per_image or not n_image or not n_caption:
        return
    if n_image == n_caption * captions_per_image:
        hint = "its transpose has it"
    elif n_caption % n_image == 0:
        hint = f"--captions-per-image {n_caption // n_image} would fit"
    else:
        hint = "--caption-to-image or --split tells whose each is"
    raise ValueError(
        f"captions_per_image: expected {captions_per_image} captions for each of {n_image} images "
        f"({n_image * captions_per_image}), got {n_caption} ({hint})"
    )


def captions_of(arguments: argparse.Namespace, split: Split | None) -> tuple[str, ...] | None:
    """The captions of the split, or the lines of ``--captions``; None without either.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming the file, if it is not UTF-8.
    """
    if split is not None:
        return split.captions
    if arguments.captions is None:
        return None
    return read_captions("--captions", arguments.captions)


def owner_of(arguments: argparse.Namespace, split: Split | None, shape: tuple[int, ...]) -> np.ndarray:
    """(n_caption,) int64, the image of each caption: from the split, a file or the number of captions per image."""
    from ..retrieval.metrics import check_map

    each = 5 if arguments.captions_per_image is None else arguments.captions_per_image
    if split is None and arguments.caption_to_image is None:
        _check_count(shape, each)
    return check_map(shape[0], shape[1], each, _read_owner(arguments, split))


def _read_owner(arguments: argparse.Namespace, split: Split | None) -> Any:
    """The image of each caption from the split or from ``--caption-to-image``; None without either.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it does not hold integers.
    """
    import numpy as np

    from ..data.convert.npy import DAMAGED, read_head, short_message

    if split is not None:
        return split.caption_to_image
    path = arguments.caption_to_image
    if path is None:
        return None
    if not Path(path).is_file():
        raise FileNotFoundError(f"--caption-to-image: expected .npy or text, got {path} ({why_no_file(path)})")
    try:
        if path.endswith(".npy"):
            with open(path, "rb") as file:
                read_head(file, os.fstat(file.fileno()).st_size)
            return np.load(path, allow_pickle=False)
        return np.array([int(x) for x in Path(path).read_text(encoding="utf-8").split()], dtype=np.int64)
    except (ValueError, *DAMAGED) as error:
        raise ValueError(f"{path}: expected an integer for each caption, got {short_message(error)}") from None
    except MemoryError as error:
        raise MemoryError(f"{path}: {str(error) or 'out of memory'}") from None
