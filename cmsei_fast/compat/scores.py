"""Scores for the functions of all the field's repositories: of tensors with gradients, and of large arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from .. import checks
from ..devices import process_device
from ..encoded import Encoded
from ..engines.eight_bits import FORMATS
from ..engines.terms import PRECISIONS
from ..ops.pair_score import pair_score
from ..packing import as_tensor
from ..scorer import PairScorer
from ..scoring import prepare, score
from ..tiling import TileStream


def pack_inputs(
    images: Any, captions: Any, cap_lens: Any, img_lens: Any = None, names: tuple[str, str] = ("images", "captions")
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Regions (ΣR, D), words (ΣL, D) and their offsets from padded tensors (N, R, D) and (M, L, D); differentiable.

    Without img_lens every image has all R regions. ``names``: of the features in the public function, for errors.

    Raises:
        TypeError: if the features are no floating tensors or the lengths no integers.
        ValueError: for a wrong rank, two widths or devices, or lengths that do not fit.
    """
    for name, x in zip(names, (images, captions), strict=True):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}")
        check_padded(name, x)
    checks.check_agreement(images, captions, names)
    if cap_lens is None:
        raise TypeError("cap_lens: expected the number of words of each caption, got None")
    checks.check_lengths("cap_lens", cap_lens, "caption", tuple(captions.shape))
    checks.check_lengths("img_lens", img_lens, "image", tuple(images.shape))
    regions, words = Encoded.from_padded(images, img_lens), Encoded.from_padded(captions, cap_lens)
    return regions.rows, words.rows, regions.offsets, words.offsets


def xattn_score(
    images: Any,
    captions: Any,
    cap_lens: Any,
    scorer: PairScorer,
    unit: bool = False,
    img_lens: Any = None,
    names: tuple[str, str] = ("images", "captions"),
) -> Tensor:
    """(n_image, n_caption) scores of padded tensors, with gradients.

    ``unit``: divide regions and words by their lengths first; vectors of 0 stay. ``names`` as in :func:`pack_inputs`.
    """
    regions, words, region_offsets, word_offsets = pack_inputs(images, captions, cap_lens, img_lens, names)
    dtype = torch.promote_types(regions.dtype, words.dtype)
    if unit:
        norm_dtype = torch.promote_types(dtype, torch.float32)  # the least length is 0 in float16
        regions, words = (normalize(x.to(norm_dtype), dim=-1) for x in (regions, words))
    return pair_score(regions.to(dtype), words.to(dtype), region_offsets, word_offsets, scorer=scorer)


def shard_xattn(
    images: Any,
    captions: Any,
    caplens: Any,
    scorer: PairScorer,
    *,
    image_lengths: Any = None,
    names: tuple[str, str, str, str] = ("images", "captions", "caplens", "image_lengths"),
    precision: str,
    device: str | None,
) -> np.ndarray:
    """(n_image, n_caption) float64 scores of arrays, as the loops over shards return them.

    ``names``: of the first three arguments and image_lengths in the public function, for errors.

    Raises:
        TypeError, ValueError: as :func:`cmsei_fast.score_matrix` does, for a list of items of unlike shapes, and for a
            device that is not here.
    """
    images, captions = as_array(names[0], images), as_array(names[1], captions)
    for name, x in zip(names, (images, captions), strict=False):
        check_padded(name, x)
    # A tensor beside an array goes: both become tensors where the scores are computed.
    if images.shape[2] != captions.shape[2]:
        got = captions.shape[2]
        raise ValueError(f"{names[1]}: expected a last dimension of {images.shape[2]} (as {names[0]}), got {got}")
    if caplens is None:
        raise TypeError(f"{names[2]}: expected the number of words of each caption, got None")
    checks.check_lengths(names[2], caplens, "caption", tuple(captions.shape))
    checks.check_lengths(names[3], image_lengths, "image", tuple(images.shape))
    out = np.empty((len(images), len(captions)))
    compute_device = process_device(device)
    if compute_device.type == "cpu" and not isinstance(images, Tensor) and not isinstance(captions, Tensor):
        score(TileStream(prepare(images, captions, caplens, image_lengths, scorer, "auto", precision, names)), out=out)
        return out
    dtype = PRECISIONS[checks.check_precision(precision, torch.float32)]
    if precision in FORMATS:  # rounded once, from the features as they are
        dtype = torch.float32
    images, captions = (as_tensor(x).to(compute_device, dtype) for x in (images, captions))
    problem = prepare(images, captions, caplens, image_lengths, scorer, "auto", precision, names)
    out[:] = score(TileStream(problem)).double().cpu().numpy()
    return out


def check_padded(name: str, x: Any) -> None:
    """Checks that x is floating features (n, rows, D) with data: an array, a dataset or a tensor.

    Raises:
        TypeError: for another type or dtype.
        ValueError: for another rank, D = 0, items without rows, or a tensor without data.
    """
    checks.check_holds_data(name, x)
    checks.dtype_of(name, x)
    if len(x.shape) != 3:
        raise ValueError(f"{name}: expected 3 dimensions (n, rows, D), got shape {tuple(x.shape)}")
    checks.check_features(name, x)


def check_finite(scores: np.ndarray, names: tuple[str, str]) -> None:
    """Checks that scores (n_image, n_caption) are finite, as finite features give; ``names`` are those of the features.

    Raises:
        ValueError: otherwise, naming a pair.
    """
    wrong = np.argwhere(~np.isfinite(scores))
    if len(wrong):
        i, j = wrong[0]
        raise ValueError(f"{', '.join(names)}: expected finite features, got none for image {i} and caption {j}")


def as_array(name: str, x: Any) -> Any:
    """A tensor or an array as it is, anything else as an array; ValueError for a list of items of unlike shapes."""
    if isinstance(x, (Tensor, np.ndarray)):
        return x
    try:
        return np.asarray(x)
    except ValueError:
        expected = "items of one shape (cmsei_fast.score_matrix takes any, one behind another with image_lengths)"
        raise ValueError(f"{name}: expected {expected}, got a {type(x).__name__} of items of unlike shapes") from None
