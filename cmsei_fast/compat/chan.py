"""CHAN's functions (Pan et al. 2023): its codings and poolings, for evaluation and for training.

    from cmsei_fast.compat.chan import compute_sims, i2t, t2i  # in lib/evaluation.py
    from cmsei_fast.compat.chan import SimsEncoder  # in lib/encoders.py

The functions read ``coding_type`` (``VHACoding``, ``THACoding``, ``VSACoding``) and ``pooling_type`` (``LSEPooling``,
``MeanPooling``, ``MaxPooling``, ``SumPooling``) of ``opt``, ``alpha`` for ``VSACoding`` and ``belta`` for
``LSEPooling``. Features are unit vectors, as CHAN's encoders return them. ``i2t`` and ``t2i`` are those of
:mod:`cmsei_fast.compat.vse_infinity`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from .. import checks
from ..scorer import PairScorer
from . import options, scores
from .vse_infinity import i2t, t2i
from .wrappers import unwrapped

__all__ = ["SimsEncoder", "compute_sims", "i2t", "t2i"]

_IMAGE_COPIES = 5
_EXACT_LIMIT = 2**53  # float64 holds every whole number below it exactly


class SimsEncoder(nn.Module):
    """CHAN's score of all images with all captions, with gradients; it has no parameters.

    Args:
        coding_type, pooling_type: see the module.
        opt: keyword; the options.

    Raises:
        AttributeError, ValueError: naming the option that is missing or has no counterpart.
    """

    def __init__(self, coding_type: str, pooling_type: str, *, opt: Any) -> None:
        super().__init__()
        self.opt = opt
        self.scorer: PairScorer = options.chan(coding_type, pooling_type, opt)

    def forward(self, img_emb: Tensor, cap_emb: Tensor, img_lens: Any, cap_lens: Any) -> Tensor:
        """(n_image, n_caption) of images (n_image, n_regions, d) and captions (n_caption, max_n_word, d).

        Lengths (n_image,) and (n_caption,) may be whole numbers in a floating dtype, as CHAN's are.
        """
        regions, words = whole_numbers("img_lens", img_lens), whole_numbers("cap_lens", cap_lens)
        names = ("img_emb", "cap_emb")
        return scores.xattn_score(img_emb, cap_emb, words, self.scorer, img_lens=regions, names=names)


def compute_sims(
    img_embs: Any,
    cap_embs: Any,
    img_lens: Any,
    cap_lens: Any,
    model: Any,
    shard_size: int = 128,
    *,
    precision: str = "float32",
    device: str | None = None,
) -> np.ndarray:
    """(n_image, n_caption) float64 array of all scores, as CHAN's evaluation makes them.

    Args:
        img_embs: (n_image, n_regions, d) array or tensor, each image once.
        cap_embs: (n_caption, max_n_word, d), likewise.
        img_lens: (n_image,) number of regions of each image; or five times as many lengths, as ``evalrank`` leaves
            them, of which every fifth is taken.
        cap_lens: (n_caption,) number of words of each caption.
        model: CHAN's model, whose ``opt`` is read; or the options.
        shard_size, precision, device: as in :func:`cmsei_fast.compat.scan.shard_xattn_t2i`.

    Raises:
        AttributeError, TypeError, ValueError: naming the option or argument, what was expected and what came.
    """
    model = unwrapped(model)
    opt = getattr(model, "opt", model)
    if opt is model and "coding_type" not in (opt if isinstance(opt, Mapping) else dir(opt)):
        raise AttributeError(f"model: expected CHAN's, with its opt, or the options, got {type(model).__name__}")
    scorer = options.chan(options.option(opt, "coding_type"), options.option(opt, "pooling_type"), opt, "opt.")
    regions, words = whole_numbers("img_lens", img_lens), whole_numbers("cap_lens", cap_lens)
    if len(regions) == _IMAGE_COPIES * len(img_embs):
        regions = regions[::_IMAGE_COPIES]
    names = ("img_embs", "cap_embs", "cap_lens", "img_lens")
    return scores.shard_xattn(
        img_embs, cap_embs, words, scorer, image_lengths=regions, names=names, precision=precision, device=device
    )


def whole_numbers(name: str, lengths: Any) -> np.ndarray:
    """Lengths (n,) as integers.

    Raises:
        TypeError: for None, or numbers that are not whole.
        ValueError: for another rank, a ragged list or a tensor without data.
    """
    if isinstance(lengths, Tensor):
        checks.check_holds_data(name, lengths)
        lengths = lengths.detach().cpu().tolist()
    try:
        array = np.asarray(checks.off_gpu(lengths))
    except ValueError:
        raise ValueError(f"{name}: expected whole numbers, got a ragged {type(lengths).__name__}") from None
    if array.dtype.kind == "f" and (np.abs(array) < _EXACT_LIMIT).all() and (array == np.round(array)).all():
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected whole numbers, got {array.dtype if lengths is not None else None}")
    if array.ndim != 1:
        raise ValueError(f"{name}: expected one dimension, got shape {array.shape}")
    return array
