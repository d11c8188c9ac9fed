"""How a Triton kernel is launched: captions of a tile, warps, groups of captions of one program.

A fixed choice, from what the compiler reports for sm_90: 64 regions (what one product instruction of a warpgroup
takes) and 4 warps hold tiles of 32 words forward and 16 backward without spilling what SCAN and CMSEI need. Larger
items need more warps.
"""

from __future__ import annotations

from typing import NamedTuple


class Launch(NamedTuple):
    """Captions in a tile, warps of a program, most groups of captions that one program walks over."""

    captions: int
    warps: int
    groups: int

    def per(self, captions: int, images: int) -> int:
        """Groups of each program, a power of two: fewer where there would be too few programs to fill a GPU."""
        tiles = -(-captions // self.captions) * images
        per = self.groups
        while per > 1 and tiles < per * 1024:
            per //= 2
        return per


def launch(kernel: str, words: int, regions: int) -> Launch:
    """The launch of a tile of captions padded to ``words`` and images padded to ``regions``.

    Args:
        kernel: ``"pair_scores"`` or ``"pair_gradients"``.
    """
    columns = max(32 if kernel == "pair_scores" else 16, words)
    numbers = 16 if kernel == "pair_scores" else 8  # of a tile, in a thread
    return Launch(columns // words, min(16, max(4, regions * columns // (32 * numbers))), 16)
