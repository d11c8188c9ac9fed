"""How a Triton kernel is launched: captions of a tile, warps, groups of captions of one program.

A fixed choice, from what the compiler reports for sm_90: 64 regions (what one product instruction of a warpgroup
takes) and 4 warps hold tiles of 32 words forward without spilling, and of 16 backward, with 8 warps where words ask or
products are split in three. Larger items need more warps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

from cmsei_fast.engines.tuning import Choices

P = ParamSpec("P")
R = TypeVar("R")


def on_device(run: Callable[P, R]) -> Callable[P, R]:
    """``run`` with the GPU of its tensors the current one: Triton launches on that, wherever the tensors are."""

    @functools.wraps(run)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        tensors = (x for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        device = next((x.device for x in tensors if x.is_cuda), None)
        if device is None:  # the interpreter's
            return run(*args, **kwargs)
        with torch.cuda.device(device):
            return run(*args, **kwargs)

    return wrapped


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


def gradient_warps(how: Launch, query: int, precision: str) -> int:
    """Warps of the gradients.

    The image's Gram matrix has a gradient in registers where words ask (query 1), and three products in place of one
    have twice the operands.
    """
    return max(8, how.warps) if query == 1 or precision == "tf32x3" else how.warps


# Pairs of a launch from which the choice is measured: fewer take less time than measuring them.
TUNED_PAIRS = 1 << 15


def candidates(words: int, regions: int) -> list[Launch]:
    """What is measured for large problems.

    The fixed choice; half and twice the columns, which trades reuse of the image's Gram matrix for programs a
    multiprocessor; twice the warps, which trades registers a thread for synchronisation.
    """
    fixed = launch("pair_scores", words, regions)
    others = [fixed._replace(captions=max(1, fixed.captions // 2)), fixed._replace(captions=2 * fixed.captions)]
    others.append(fixed._replace(warps=min(16, 2 * fixed.warps)))
    return list(dict.fromkeys([fixed, *others]))


@functools.lru_cache(maxsize=8)
def choices(device: int) -> Choices:
    """What has been measured on this GPU."""
    import triton

    return Choices(torch.cuda.get_device_name(device), triton.__version__)


def tuned(words: int, regions: int, pairs: int, key: str, device: torch.device, run: Callable[[Launch], Any]) -> Launch:
    """The fixed choice for small problems and in the interpreter, else the fastest of :func:`candidates`.

    While a CUDA graph is captured nothing can be measured, but what was measured before holds.

    Args:
        key: whatever else of the kernel's options makes a difference.
        run: launches the kernel.
    """
    if device.type != "cuda" or pairs < TUNED_PAIRS:
        return launch("pair_scores", words, regions)
    found = candidates(words, regions)
    measured = choices(torch.cuda.current_device() if device.index is None else device.index)
    key = f"pair_scores {words} {regions} {key}"
    if torch.cuda.is_current_stream_capturing():
        return found[measured.known(key, found) or 0]  # the fixed choice comes first
    return found[measured.best(key, found, lambda x: seconds(lambda: run(x)))]


def seconds(run: Callable[[], Any]) -> float:
    """Shortest of five runs on the GPU after one that compiles, in some unit."""
    run()
    times = []
    for _ in range(5):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return min(times)
