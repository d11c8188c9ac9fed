"""The score functions of LAPS's ``lib/xttn.py`` (Fu et al. 2024): SCAN's attention with means, on normalised vectors.

    from cmsei_fast.compat.laps import i2t, t2i, xattn_score_i2t, xattn_score_t2i, xattn_score_two

``i2t`` and ``t2i`` are those of :mod:`cmsei_fast.compat.vse_infinity`. All three scores have gradients.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..scorer import Attention, PairScorer, finite
from . import scores
from .vse_infinity import i2t, t2i

__all__ = ["i2t", "t2i", "xattn_score_i2t", "xattn_score_t2i", "xattn_score_two"]


def xattn_score_t2i(images: Tensor, captions: Tensor, cap_lens: Any, smooth: float = 9.0) -> Tensor:
    """(n_image, n_caption) scores of images (n_image, n_regions, d) and captions (n_caption, max_n_word, d).

    Args:
        images: regions; they and the words are normalised first.
        captions: words, padded.
        cap_lens: (n_caption,) number of words of each caption.
        smooth: temperature of the softmax, > 0.

    Returns:
        float32, or float64 for float64 features; differentiable.

    Raises:
        TypeError, ValueError: as SCAN's ``xattn_score_t2i`` does.
    """
    return _score(images, captions, cap_lens, PairScorer(t2i=_attention("smooth", smooth)))


def xattn_score_i2t(images: Tensor, captions: Tensor, cap_lens: Any, smooth: float = 4.0) -> Tensor:
    """(n_image, n_caption) scores in which regions attend to words; otherwise like :func:`xattn_score_t2i`."""
    return _score(images, captions, cap_lens, PairScorer(i2t=_attention("smooth", smooth)))


def xattn_score_two(
    images: Tensor, captions: Tensor, cap_lens: Any, smooth_t2i: float = 9.0, smooth_i2t: float = 4.0
) -> Tensor:
    """(n_image, n_caption) mean of the scores of both directions; otherwise like :func:`xattn_score_t2i`."""
    directions = _attention("smooth_t2i", smooth_t2i, 0.5), _attention("smooth_i2t", smooth_i2t, 0.5)
    return _score(images, captions, cap_lens, PairScorer(*directions))


def _attention(name: str, smooth: float, weight: float = 1.0) -> Attention:
    """One direction; ``name``: the argument that gives its temperature, for errors."""
    return Attention(weight, finite(name, smooth, minimum=0.0, open_=True))


def _score(images: Tensor, captions: Tensor, cap_lens: Any, scorer: PairScorer) -> Tensor:
    return scores.xattn_score(images, captions, cap_lens, scorer, unit=True)
