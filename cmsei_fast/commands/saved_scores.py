"""A saved score matrix, and what says whose its captions are: flags of ``cmsei-fast report``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .sources import absent, read_captions

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from ..data import Split


def saved_scores(path: str, split: Split | None, name: str | None) -> np.ndarray:
    """The matrix (n_image, n_caption), memory-mapped; its shape is the split's where there is one.

    Args:
        path: of a ``.npy`` file.
        split: that was scored, if it is known.
        name: of the split, for messages.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming the file: no floating matrix, or of another shape.
    """
    import zipfile

    import numpy as np

    from ..data.convert.npy import DAMAGED_HEAD

    if not Path(path).is_file():
        raise FileNotFoundError(f"--scores: expected a .npy file, got {path} ({absent(path)})")
    try:
        scores: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, zipfile.BadZipFile, *DAMAGED_HEAD):
        got = _cut_short(path) or f"another or a pickled one{_as_matrix(path)}"
        raise ValueError(f"{path}: expected a .npy file of one floating matrix, got {got}") from None
    if not isinstance(scores, np.ndarray) or scores.ndim != 2 or scores.dtype.kind != "f":
        got = f"{scores.dtype} {scores.shape}" if isinstance(scores, np.ndarray) else f"an archive{_as_matrix(path)}"
        raise ValueError(f"{path}: expected a floating matrix (n_image, n_caption), got {got}")
    if split is not None and scores.shape != (shape := (len(split), split.n_captions)):
        hint = " (its transpose has it)" if scores.shape == shape[::-1] else ""
        raise ValueError(f"{path}: expected shape {shape} (images, captions of {name}), got {scores.shape}{hint}")
    return scores


def mean_of_saved(paths: Sequence[str], split: Split | None, name: str | None) -> np.ndarray:
    """The mean of matrices (n_image, n_caption), an ensemble of any models; a single one is memory-mapped.

    Args:
        paths: of one or more ``.npy`` files.
        split, name: as :func:`saved_scores` has them.

    Returns:
        Of several, float32, or float64 where one of them is wider.

    Raises:
        FileNotFoundError, ValueError: as :func:`saved_scores` does; ValueError: for matrices of unlike shapes.
        MemoryError: if the mean of several cannot fit.
    """
    import numpy as np
    import torch

    from ..checks import check_memory

    found = [saved_scores(path, split, name) for path in paths]
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


def _cut_short(path: str) -> str:
    """What a file is that ends before its numbers do; "" for any other."""
    from ..data.convert.npy import DAMAGED, read_head

    try:
        with open(path, "rb") as file:
            read_head(file, os.fstat(file.fileno()).st_size)
    except EOFError as error:
        return f"a truncated one: {error}"
    except (ValueError, *DAMAGED):
        pass
    return ""


def _as_matrix(path: str) -> str:
    """The line of Python that makes a matrix of a file in which the field's scripts leave scores; "" for any other."""
    with open(path, "rb") as file:
        begins = file.read(128)
    if begins.startswith(b"\x93NUMPY") and b"'|O'" in begins:  # VSE∞'s code and its kin: {'npts': …, 'sims': …}
        form, trust = f"np.load({path!r}, allow_pickle=True).item()['sims']", ", if you trust the file"
    elif begins.startswith(b"PK") and (arrays := _arrays_of(path)):
        form, trust = f"np.load({path!r})[{arrays[0]!r}]", ""
    elif begins.startswith(b"PK"):  # torch.save, as in IMRAM's
        form, trust = f"torch.load({path!r}, weights_only=False)", ", if you trust the file"
    elif path.endswith(".txt"):  # numpy.savetxt, as in ESL's
        form, trust = f"np.loadtxt({path!r})", ""
    else:
        return ""
    return f"; this makes one{trust}: np.save('scores.npy', {form})"


def _arrays_of(path: str) -> list[str]:
    """The arrays of an archive by numpy.savez; none of any other zip."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return []
    return [name.removesuffix(".npy") for name in names if name.endswith(".npy")]


def _check_count(shape: tuple[int, ...], captions_per_image: int) -> None:
    """So many captions an image, where nothing else says whose they are.

    Raises:
        ValueError: it is another number, which the message tells where there is one.
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
    """The captions of the split, or of the file one a line; None without either.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming the file: it is not UTF-8.
    """
    if split is not None:
        return split.captions
    if arguments.captions is None:
        return None
    return read_captions("--captions", arguments.captions)


def owner_of(arguments: argparse.Namespace, split: Split | None, shape: tuple[int, ...]) -> np.ndarray:
    """(n_caption,) int64, the image of each caption: as the split or a file says, else so many for each image."""
    from ..retrieval.metrics import check_map

    each = 5 if arguments.captions_per_image is None else arguments.captions_per_image
    if split is None and arguments.caption_to_image is None:
        _check_count(shape, each)
    return check_map(shape[0], shape[1], each, _map(arguments, split))


def _map(arguments: argparse.Namespace, split: Split | None) -> Any:
    """The split's map or that of the file, None without either.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it does not hold integers.
    """
    import numpy as np

    from ..data.convert.npy import DAMAGED, read_head, said

    if split is not None:
        return split.caption_to_image
    path = arguments.caption_to_image
    if path is None:
        return None
    if not Path(path).is_file():
        raise FileNotFoundError(f"--caption-to-image: expected .npy or text, got {path} ({absent(path)})")
    try:
        if path.endswith(".npy"):
            with open(path, "rb") as file:
                read_head(file, os.fstat(file.fileno()).st_size)
            return np.load(path, allow_pickle=False)
        return np.array([int(x) for x in Path(path).read_text(encoding="utf-8").split()], dtype=np.int64)
    except (ValueError, *DAMAGED) as error:
        raise ValueError(f"{path}: expected an integer for each caption, got {said(error)}") from None
    except MemoryError as error:
        raise MemoryError(f"{path}: {str(error) or 'out of memory'}") from None
