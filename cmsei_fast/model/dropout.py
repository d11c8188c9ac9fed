"""Dropout with masks that are cheap on the CPU, where torch draws them one element at a time in one thread."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..transforms import is_transformed

_NUMBERS = 1 << 16  # that an element's draw can be


class Dropout(nn.Dropout):
    """torch's dropout; on the CPU four elements share a random number of 64 bits from torch's generator.

    There the probability is the multiple of 2⁻¹⁶ below 1 that is nearest to ``p``, and what is kept is scaled by it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (...) with elements set to 0 in training, in its dtype."""
        lost = min(round(self.p * _NUMBERS), _NUMBERS - 1)
        elsewhere = x.device.type != "cpu" or torch.compiler.is_compiling() or is_transformed()
        if elsewhere or self.inplace or not (self.training and lost and x.numel()):
            return super().forward(x)
        drawn = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device="cpu").random_(-(2**63), None)
        kept = drawn.view(torch.int16)[: x.numel()].view(x.shape) >= lost - _NUMBERS // 2
        return x * kept.to(x.dtype).mul_(_NUMBERS / (_NUMBERS - lost))
