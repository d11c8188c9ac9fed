"""VSE++'s functions (Faghri et al. 2018), as in its ``evaluation.py`` and those built on it, such as VSRN's.

    from cmsei_fast.compat.vsepp import i2t, t2i

They differ from the original as :func:`cmsei_fast.compat.scan.i2t` says; one product replaces the loop.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .. import checks
from ..packing import as_tensor
from .ranks import retrieval
from .scores import as_array

__all__ = ["i2t", "t2i"]

MEASURES = ("cosine", "order")
_NAMES = "images, captions"  # what the scores are of
_IMAGE_COPIES = 5
_BLOCK = 1 << 24  # numbers of the order measure at a time


def i2t(
    images: Any, captions: Any, npts: int | None = None, measure: str = "cosine", return_ranks: bool = False
) -> Any:
    """(r1, r5, r10, medr, meanr) with the images as queries, and (ranks, top1) with return_ranks.

    Args:
        images: (5N, d) array or tensor of any floating dtype, each image five times in a row.
        captions: (5N, d), the five of each image together.
        npts: N, or None.
        measure: ``"cosine"``, the inner product of vectors that are normalised already, or ``"order"`` of Vendrov et
            al. 2016, −‖max(0, caption − image)‖.

    Raises:
        TypeError: if the features are no floating arrays or tensors.
        ValueError: for shapes that do not fit, another measure, or a NaN.
    """
    sims = _similarities(images, captions, npts, measure)
    return retrieval("i2t", None, sims, return_ranks, name=_NAMES)


def t2i(
    images: Any, captions: Any, npts: int | None = None, measure: str = "cosine", return_ranks: bool = False
) -> Any:
    """(r1, r5, r10, medr, meanr) with the captions as queries; otherwise like :func:`i2t`."""
    sims = _similarities(images, captions, npts, measure)
    return retrieval("t2i", None, sims, return_ranks, name=_NAMES)


def _similarities(images: Any, captions: Any, npts: int | None, measure: str) -> np.ndarray:
    """(N, 5N)."""
    if measure not in MEASURES:
        raise ValueError(f"measure: expected one of {', '.join(MEASURES)}, got {measure!r}")
    x, y = _matrix("images", images), _matrix("captions", captions)
    if len(x) % _IMAGE_COPIES or len(x) == 0:
        raise ValueError(f"images: expected each image {_IMAGE_COPIES} times, got {len(x)} rows")
    if y.shape != x.shape:
        raise ValueError(f"captions: expected shape {tuple(x.shape)} (as images), got {tuple(y.shape)}")
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    x, y = x.to(dtype), y.to(dtype)
    unique_images = x[::_IMAGE_COPIES]
    if npts is not None and npts != len(unique_images):
        raise ValueError(f"npts: expected None or {len(unique_images)} (a fifth of the rows of images), got {npts}")
    if measure == "cosine":
        return (unique_images @ y.T).numpy()
    step = max(1, _BLOCK // y.numel())
    parts = [(y - part[:, None]).clamp(min=0).norm(dim=2).neg() for part in unique_images.split(step)]
    return torch.cat(parts).numpy()


def _matrix(name: str, value: Any) -> torch.Tensor:
    value = as_array(name, value)
    checks.check_holds_data(name, value)
    checks.dtype_of(name, value)
    if len(value.shape) != 2 or value.shape[1] == 0:
        raise ValueError(f"{name}: expected shape (5N, d), got {tuple(value.shape)}")
    matrix = as_tensor(value).detach().cpu()
    if len(wrong := matrix.isnan().any(1).nonzero()):
        raise ValueError(f"{name}: expected no NaN, got one in row {int(wrong[0])}")
    return matrix
