"""SCAN's functions (Lee et al. 2018), as in its ``model.py`` and ``evaluation.py``, on which many others are built.

    from cmsei_fast.compat.scan import i2t, shard_xattn_i2t, shard_xattn_t2i, t2i, xattn_score_i2t, xattn_score_t2i

``opt`` is SCAN's argparse namespace. The functions read ``raw_feature_norm`` (any of SCAN's, including ``no_norm``),
``agg_func`` (``LogSumExp``, ``Max``, ``Sum``, ``Mean``), ``lambda_softmax`` and, for ``LogSumExp``, ``lambda_lse``. A
value without a counterpart raises an error that names the option.
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
    """(n_image, n_caption) scores in which words attend to regions, with gradients for the loss.

    Args:
        images: (n_image, n_regions, d) tensor.
        captions: (n_caption, max_n_word, d) tensor on the same device; padding is not read.
        cap_lens: (n_caption,) number of words of each caption.
        opt: see the module.

    Returns:
        float32, or float64 for float64 features. Both dimensions are kept for one image, one caption or a caption of
        one word, where SCAN's ``squeeze()`` fails or sums over the wrong axis.

    Raises:
        AttributeError, TypeError, ValueError: naming the option or argument, what was expected and what came.
    """
    return scores.xattn_score(images, captions, cap_lens, PairScorer(t2i=options.scan(opt)))


def xattn_score_i2t(images: Tensor, captions: Tensor, cap_lens: Any, opt: Any) -> Tensor:
    """(n_image, n_caption) scores in which regions attend to words; otherwise like :func:`xattn_score_t2i`."""
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
    """(n_image, n_caption) float64 array of all scores, in which words attend to regions.

    Args:
        images: (n_image, n_regions, d) array, memmap or tensor, each image once.
        captions: (n_caption, max_n_word, d), likewise.
        caplens: (n_caption,) number of words of each caption.
        opt: see the module.
        shard_size: ignored; tiles are chosen to fit the caches.
        precision: as in :func:`cmsei_fast.score_matrix`, but by default not the features' own: the field keeps float32
            features in float64 arrays, and double precision takes about twice the time on a CPU.
        device: where to compute; None is the GPU if there is one, as in the original, else the CPU.

    Raises:
        AttributeError, TypeError, ValueError: naming the option or argument, what was expected and what came; the last
            also for features that are not finite, and for a device that is not here.
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
    """(n_image, n_caption) float64 array of scores in which regions attend to words; like :func:`shard_xattn_t2i`."""
    scorer = PairScorer(i2t=options.scan(opt))
    return scores.shard_xattn(images, captions, caplens, scorer, precision=precision, device=device)


def i2t(
    images: Any, captions: Any, caplens: Any, sims: Any, npts: int | None = None, return_ranks: bool = False
) -> Any:
    """Ranks captions for images: (r1, r5, r10, medr, meanr), and (ranks, top1) with return_ranks.

    Args:
        images: its length is the number of images N.
        captions, caplens: not read, as in the original.
        sims: (N, 5N) scores; caption j belongs to image j // 5.
        npts: None or N.
        return_ranks: also return the ranks (N,), from 0, and the index of the best caption (N,).

    It differs from the original where that is wrong. A NaN is an error (``argsort()[::-1]`` ranks it first). A tie
    counts as half a rank, rounded up, wherever the tied entries are (so a constant matrix does not get an R@1 of 20 %
    or 100 %). A matrix with each image five times is an error (the original looks only at its first fifth of captions).
    As in the original, medr is the median rank rounded down.

    Raises:
        TypeError, ValueError: for sims that do not fit, or with a NaN.
    """
    check_images(images, sims)
    return retrieval("i2t", npts, sims, return_ranks)


def t2i(
    images: Any, captions: Any, caplens: Any, sims: Any, npts: int | None = None, return_ranks: bool = False
) -> Any:
    """Ranks images for captions; ranks and best images are (5N,). Otherwise like :func:`i2t`."""
    check_images(images, sims)
    return retrieval("t2i", npts, sims, return_ranks)
