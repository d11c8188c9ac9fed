"""SGRAF's functions and its similarity module (Diao et al. 2021): evaluation of its trained models, and training.

    from cmsei_fast.compat.sgraf import i2t, shard_attn_scores, t2i  # in evaluation.py
    from cmsei_fast.compat.sgraf import EncoderSimilarity  # in model.py

``i2t`` and ``t2i`` are those of :mod:`cmsei_fast.compat.scan`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .. import checks
from ..devices import process_device
from ..packing import as_tensor
from .scan import i2t, t2i
from .scores import check_finite, check_padded
from .similarity import EncoderSimilarity, check_precision
from .wrappers import unwrapped

__all__ = ["EncoderSimilarity", "i2t", "shard_attn_scores", "t2i"]


@torch.no_grad()
def shard_attn_scores(
    model: Any,
    img_embs: Any,
    cap_embs: Any,
    cap_lens: Any,
    opt: Any,
    shard_size: int = 100,
    *,
    precision: str = "float32",
    device: str | None = None,
) -> np.ndarray:
    """(n_image, n_caption) float64 array of all similarities, as SGRAF's evaluation makes them.

    Args:
        model: SGRAF's model, whose ``sim_enc`` is an ``EncoderSimilarity``, its own or the one here; or such a module.
            Its weights are read, it is not called; they are used as in evaluation mode.
        img_embs: (n_image, n_regions, d) array or tensor, each image once.
        cap_embs: (n_caption, max_n_word, d), likewise.
        cap_lens: (n_caption,) words of each caption.
        opt: ignored; the weights say what the module is.
        shard_size: ignored; tiles are chosen to fit the caches.
        precision: ``"float32"`` or ``"bfloat16"``, as in :class:`EncoderSimilarity`.
        device: where to compute; None is the GPU if there is one, as in the original, else the CPU.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came; ValueError for features of another
            width than the model's or that are not finite, too, and for a device that is not here.
    """
    check_precision(precision)
    model = unwrapped(model)
    module = unwrapped(getattr(model, "sim_enc", model))
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"model: expected a model with sim_enc or a module, got {type(model).__name__}")
    encoder = EncoderSimilarity.from_state(module.state_dict(), precision, "model")
    for name, x in (("img_embs", img_embs), ("cap_embs", cap_embs)):
        check_padded(name, x)
    if cap_lens is None:
        raise TypeError("cap_lens: expected the number of words of each caption, got None")
    lengths = checks.check_lengths("cap_lens", cap_lens, "caption", tuple(cap_embs.shape))
    assert lengths is not None
    compute_device = process_device(device)
    images = as_tensor(img_embs)
    # The field keeps float32 words in padded float64 arrays: only the words are copied.
    words = [
        as_tensor(c[:n]).to(compute_device, torch.float32) for c, n in zip(cap_embs, lengths.tolist(), strict=True)
    ]
    packed = torch.cat(words) if words else torch.empty(0, cap_embs.shape[2], device=compute_device)
    images = images.to(compute_device, torch.float32)
    names = ("img_embs", "cap_embs")
    similarities = (
        encoder.to(compute_device).similarities(images, packed, torch.from_numpy(lengths), names).double().cpu().numpy()
    )
    check_finite(similarities, names)
    return similarities
