"""SCAN's functions (Lee et al. 2018), as in its ``model.py`` and ``evaluation.py`` and the many made from them.

    from cmsei_fast.compat.scan import i2t, shard_xattn_i2t, shard_xattn_t2i, t2i, xattn_score_i2t, xattn_score_t2i

``opt`` is SCAN's argparse namespace. Read are ``raw_feature_norm`` (any of SCAN's, ``no_norm`` too), ``agg_func``
(``LogSumExp``, ``Max``, ``Sum``, ``Mean``), ``lambda_softmax`` and, for ``LogSumExp``, ``lambda_lse``; what has no
counterpart is an error that names the option.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from ..scorer import PairScorer
from . import options, scores
from .ranks import check_images, retrieval

__all__ = ["i2t", "shard_xattn_i2t", "shard_xattn_t2i", "t2i", "xattn_score_i2t", "xattn_score_t2i"]


def xattn_score_t2i(images: Tensor, captions: Tensor, cap_lens: Any, opt: Any) -> Tensor:
    """(n_image, n_caption) scores, words ask; with gradients, so that the loss may use it.

    Args:
        images: (n_image, n_regions, d) tensor.
        captions: (n_caption, max_n_word, d) tensor on the same device; what is behind a caption's words is not read.
        cap_lens: (n_caption,) words of each caption.
        opt: see the module.

    Returns:
        float32, float64 for float64 features. One image, one caption and a caption of one word keep both dimensions,
        where SCAN's ``squeeze()`` fails or adds over the wrong axis.

    Raises:
        AttributeError, TypeError, ValueError: naming the option or argument, what was expected and what came.
    """
    return scores.xattn_score(images, captions, cap_lens, PairScorer(t2i=options.scan(opt)))


def xattn_score_i2t(images: Tensor, captions: Tensor, cap_lens: Any, opt: Any) -> Tensor:
    """(n_image, n_caption) scores, regions ask; otherwise as :func:`xattn_score_t2i`."""
    return scores.xattn_score(images, captions, cap_lens, PairScorer(i2t=options.scan(opt)))


def shard_xattn_t2i(
    images: Any,
    captions: Any,
    caplens: Any,
    opt: Any,
    shard_size: int = 128,
    *,
    precision: str = "float32",
    device: str | None = None,
) -> np.ndarray:
    """(n_image, n_caption) float64 array of all scores, words ask.

    Args:
        images: (n_image, n_regions, d) array, memmap or tensor, each image once.
        captions: (n_caption, max_n_word, d), likewise.
        caplens: (n_caption,) words of each caption.
        opt: see the module.
        shard_size: not needed; tiles are chosen by what the caches hold.
        precision: as of :func:`cmsei_fast.score_matrix`. Not the features' own: the field keeps float32 features in
            float64 arrays, and double precision is many times slower.
        device: where it is computed; None is the GPU where there is one, as in the original, else the CPU.
    """
    scorer = PairScorer(t2i=options.scan(opt))
    return scores.shard_xattn(images, captions, caplens, scorer, precision=precision, device=device)


def shard_xattn_i2t(
    images: Any,
    captions: Any,
    caplens: Any,
    opt: Any,
    shard_size: int = 128,
    *,
    precision: str = "float32",
    device: str | None = None,
) -> np.ndarray:
    """(n_image, n_caption) float64 array of all scores, regions ask; otherwise as :func:`shard_xattn_t2i`."""
    scorer = PairScorer(i2t=options.scan(opt))
    return scores.shard_xattn(images, captions, caplens, scorer, precision=precision, device=device)


def i2t(
    images: Any, captions: Any, caplens: Any, sims: Any, npts: int | None = None, return_ranks: bool = False
) -> Any:
    """Images ask for captions: (r1, r5, r10, medr, meanr), and (ranks, top1) with return_ranks.

    Args:
        images: its length is the number of images N.
        captions, caplens: not read, as in the original.
        sims: (N, 5N) scores; caption j belongs to image j // 5.
        npts: None or N.
        return_ranks: add the ranks (N,) from 0 and the index of the best caption (N,).

    Differs from the original where that is wrong: a NaN is an error (``argsort()[::-1]`` ranks it first); a tie counts
    as half a rank, rounded up, wherever the tied entries stand (a constant matrix has no R@1 of 20 % or 100 %); a
    matrix with each image five times is an error (only its first fifth of captions was looked at). medr is the median
    rank rounded down, as there.

    Raises:
        TypeError, ValueError: for sims that do not fit, or with a NaN.
    """
    check_images(images, sims)
    return retrieval("i2t", npts, sims, return_ranks)


def t2i(
    images: Any, captions: Any, caplens: Any, sims: Any, npts: int | None = None, return_ranks: bool = False
) -> Any:
    """Captions ask for images; ranks and best images are (5N,). Otherwise as :func:`i2t`."""
    check_images(images, sims)
    return retrieval("t2i", npts, sims, return_ranks)
