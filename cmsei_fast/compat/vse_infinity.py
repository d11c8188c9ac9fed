"""VSE∞'s functions (Chen et al. 2021), as in its ``lib/evaluation.py`` and those made from it (LAPS among them).

    from cmsei_fast.compat.vse_infinity import compute_sim, i2t, t2i

They differ from the original as :func:`cmsei_fast.compat.scan.i2t` says.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .ranks import retrieval

__all__ = ["compute_sim", "i2t", "t2i"]

_CAPTIONS = {"coco": 5}


def compute_sim(images: Any, captions: Any) -> np.ndarray:
    """(n_image, n_caption) inner products of images (n_image, d) and captions (n_caption, d)."""
    return np.matmul(images, np.transpose(captions))


def i2t(npts: int, sims: Any, return_ranks: bool = False, mode: str = "coco") -> Any:
    """(r1, r5, r10, medr, meanr) of npts images asking for captions, and (ranks, top1) with return_ranks.

    sims is (npts, 5 npts) in mode ``"coco"``, (npts, npts) with one caption an image in any other.
    """
    return retrieval("i2t", npts, sims, return_ranks, _CAPTIONS.get(mode, 1))


def t2i(npts: int, sims: Any, return_ranks: bool = False, mode: str = "coco") -> Any:
    """(r1, r5, r10, medr, meanr) of the captions asking for npts images; otherwise as :func:`i2t`."""
    return retrieval("t2i", npts, sims, return_ranks, _CAPTIONS.get(mode, 1))
