"""NAAF's functions (Zhang et al. 2022), as in its evaluation.

    from cmsei_fast.compat.naaf import i2t, shard_xattn, t2i, xattn_score_test

The functions read ``lambda_softmax`` and ``thres_safe`` of ``opt``; training leaves the latter in the namespace. The
``xattn_score`` of NAAF's training also moves that threshold, and is left to NAAF. ``i2t`` and ``t2i`` differ from
NAAF's as :func:`cmsei_fast.compat.scan.i2t` says.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from . import options, scores
from .ranks import check_images, retrieval

__all__ = ["i2t", "shard_xattn", "t2i", "xattn_score_test"]


def xattn_score_test(images: Tensor, captions: Tensor, cap_lens: Any, opt: Any) -> Tensor:
    """(n_image, n_caption) scores; arguments as in SCAN's ``xattn_score_t2i``. ``opt`` is not written to.

    Features must have unit length, as NAAF's encoders return them: the cosine here divides by both lengths, NAAF's by
    that of the attended vector alone.
    """
    return scores.xattn_score(images, captions, cap_lens, options.naaf(opt))


def shard_xattn(
    images: Any,
    captions: Any,
    caplens: Any,
    opt: Any,
    shard_size: int = 128,
    *,
    precision: str = "float32",
    device: str | None = None,
) -> np.ndarray:
    """(n_image, n_caption) float64 array of all scores; arguments as in SCAN's ``shard_xattn_t2i``."""
    return scores.shard_xattn(images, captions, caplens, options.naaf(opt), precision=precision, device=device)


def i2t(images: Any, sims: Any, npts: int | None = None, return_ranks: bool = False) -> Any:
    """(r1, r5, r10, medr, meanr) with images as queries, and (ranks, top1) with return_ranks; ranks count from 0.

    sims is (npts, 5 npts). Raises as SCAN's ``i2t`` does.
    """
    check_images(images, sims)
    return retrieval("i2t", npts, sims, return_ranks)


def t2i(images: Any, sims: Any, npts: int | None = None, return_ranks: bool = False) -> Any:
    """(r1, r5, r10, medr, meanr) with captions as queries; otherwise like :func:`i2t`."""
    check_images(images, sims)
    return retrieval("t2i", npts, sims, return_ranks)
