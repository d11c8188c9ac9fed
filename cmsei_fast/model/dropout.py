"""Dropout with masks that are cheap on the CPU, where torch draws them one element at a time in one thread."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..transforms import is_transformed

_LEVELS = 1 << 16  # values of the 16 random bits of an element


class Dropout(nn.Dropout):
    """torch's dropout; on the CPU four elements share a random number of 64 bits from torch's generator.

    There the probability is the multiple of 2⁻¹⁶ below 1 that is nearest to ``p``, and what is kept is scaled by it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (...) with elements set to 0 in training, in its dtype."""
        dropped_levels = min(round(self.p * _LEVELS), _LEVELS - 1)
        use_torch = x.device.type != "cpu" or torch.compiler.is_compiling() or is_transformed()
        if use_torch or self.inplace or not (self.training and dropped_levels and x.numel()):
            return super().forward(x)
        random_bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device="cpu").random_(-(2**63), None)
        kept = random_bits.view(torch.int16)[: x.numel()].view(x.shape) >= dropped_levels - _LEVELS // 2
        return x * kept.to(x.dtype).mul_(_LEVELS / (_LEVELS - dropped_levels))
