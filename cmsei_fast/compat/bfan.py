"""BFAN's functions (Liu et al. 2019): focal attention in both directions.

    from cmsei_fast.compat.bfan import i2t, shard_xattn, t2i, xattn_score

The functions read ``focal_type`` (``equal`` or ``prob``) and ``lambda_softmax`` of ``opt``. ``i2t`` and ``t2i`` take
the number of images first; they differ from BFAN's as :func:`cmsei_fast.compat.scan.i2t` says.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from . import options, scores
from .ranks import retrieval

__all__ = ["i2t", "shard_xattn", "t2i", "xattn_score"]


def xattn_score(images: Tensor, captions: Tensor, cap_lens: Any, opt: Any) -> Tensor:
    """(n_image, n_caption) sum of both directions' scores; otherwise like SCAN's ``xattn_score_t2i``.

    Which fragments are kept is a constant in the gradient. A fragment at the mean is kept, so a caption of one word has
    a score, where BFAN's is NaN.
    """
    return scores.xattn_score(images, captions, cap_lens, options.bfan(opt))


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
    return scores.shard_xattn(images, captions, caplens, options.bfan(opt), precision=precision, device=device)


def i2t(npts: int, sims: Any, return_ranks: bool = False) -> Any:
    """(r1, r5, r10, medr, meanr) with npts images as queries, and (ranks, top1) with return_ranks; ranks count from 0.

    sims is (npts, 5 npts). Raises as SCAN's ``i2t`` does.
    """
    return retrieval("i2t", npts, sims, return_ranks)


def t2i(npts: int, sims: Any, return_ranks: bool = False) -> Any:
    """(r1, r5, r10, medr, meanr) with the captions of npts images as queries; otherwise like :func:`i2t`."""
    return retrieval("t2i", npts, sims, return_ranks)
