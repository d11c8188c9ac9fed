"""VSE∞'s functions (Chen et al. 2021), as in its ``lib/evaluation.py`` and those built on it, such as LAPS's.

    from cmsei_fast.compat.vse_infinity import compute_sim, i2t, t2i

They differ from the original as :func:`cmsei_fast.compat.scan.i2t` says.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import checks
from .ranks import retrieval
from .scores import as_array

__all__ = ["compute_sim", "i2t", "t2i"]

_CAPTIONS = {"coco": 5}


def compute_sim(images: Any, captions: Any) -> np.ndarray:
    """(n_image, n_caption) inner products of images (n_image, d) and captions (n_caption, d), arrays or tensors.

    Raises:
        TypeError: if they are no floating arrays or tensors.
        ValueError: for another rank, or two widths.
    """
    x, y = _vectors("images", images), _vectors("captions", captions)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"captions: expected a last dimension of {x.shape[1]} (as images), got {y.shape[1]}")
    return np.matmul(x, y.T)


def _vectors(name: str, value: Any) -> np.ndarray:
    value = as_array(name, value)
    checks.check_holds_data(name, value)
    dtype = checks.dtype_of(name, value)
    if len(value.shape) != 2:
        raise ValueError(f"{name}: expected shape (n, d), got {tuple(value.shape)}")
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.float() if dtype == torch.bfloat16 else value).numpy()  # numpy has no bfloat16
    array: np.ndarray = value
    return array


def i2t(npts: int, sims: Any, return_ranks: bool = False, mode: str = "coco") -> Any:
    """(r1, r5, r10, medr, meanr) with npts images as queries, and (ranks, top1) with return_ranks.

    sims is (npts, 5 npts) in mode ``"coco"``, and (npts, npts) with one caption per image in any other. Ranks count
    from 0. Raises as SCAN's ``i2t`` does.
    """
    return retrieval("i2t", npts, sims, return_ranks, _CAPTIONS.get(mode, 1))


def t2i(npts: int, sims: Any, return_ranks: bool = False, mode: str = "coco") -> Any:
    """(r1, r5, r10, medr, meanr) with the captions of npts images as queries; otherwise like :func:`i2t`."""
    return retrieval("t2i", npts, sims, return_ranks, _CAPTIONS.get(mode, 1))
