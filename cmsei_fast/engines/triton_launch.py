"""How a Triton kernel is launched: captions in a tile, warps, groups of captions per program, form of its products.

With the fixed choice, the compiler reports no spills for sm_80, sm_90 and sm_100 except those that
``tests/test_triton_compiled.py`` names. Its warps for images of 64 regions, by the captions' padded words and by the
precision of the small products:

=========================  ==========  ==========  ========  ==========
kernel                     16, tf32    32, tf32    64, tf32  any, tf32x3
=========================  ==========  ==========  ========  ==========
forward                    4           4           8         8
gradients, word queries    8           8           8         8
gradients, region queries  4           8           8         8
=========================  ==========  ==========  ========  ==========

A forward tile has at least 32 columns: two captions of 16 words. With more than 8 warps, a thread would have only 128
registers.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

from cmsei_fast.engines.tuning import Choices

P = ParamSpec("P")
R = TypeVar("R")


def on_device(function: Callable[P, R]) -> Callable[P, R]:
    """Makes the GPU of the tensors among the arguments the current one, because Triton launches on the current GPU."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        tensors = (x for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        device = next((x.device for x in tensors if x.is_cuda), None)
        if device is None:  # the interpreter's
            return function(*args, **kwargs)
        with torch.cuda.device(device):
            return function(*args, **kwargs)

    return wrapped


def fitting(launch_kernels: Callable[[], R]) -> R | None:
    """The result of ``launch_kernels``; None, with one warning, if a kernel needs more resources than this GPU has."""
    from triton.runtime.errors import OutOfResources

    try:
        return launch_kernels()
    except OutOfResources as error:
        warn_once(f"engine 'triton': a kernel does not fit this GPU ({error}); 'eager' computes this")
        return None


@functools.lru_cache(maxsize=8)
def warn_once(message: str) -> None:
    """Warns once for each message."""
    warnings.warn(message, stacklevel=4)


class Launch(NamedTuple):
    """Captions in a tile, warps of a program, and the most groups of captions that one program handles."""

    captions: int
    warps: int
    max_groups: int

    def groups_per_program(self, captions: int, images: int) -> int:
        """Groups of captions per program, a power of two: fewer if there would be too few programs to fill a GPU."""
        tiles = -(-captions // self.captions) * images
        groups = self.max_groups
        while groups > 1 and tiles < groups * 1024:
            groups //= 2
        return groups


def launch(kernel: str, words: int, regions: int) -> Launch:
    """The launch of a tile of captions padded to ``words`` and images padded to ``regions``.

    Args:
        kernel: ``"pair_scores"`` or ``"pair_gradients"``.
    """
    columns = max(32 if kernel == "pair_scores" else 16, words)
    values_per_thread = 16 if kernel == "pair_scores" else 8
    return Launch(columns // words, min(8, max(4, regions * columns // (32 * values_per_thread))), 16)


def pass_warps(kernel: str, plan: Launch, query: int, precision: str) -> int:
    """Warps of a pass with the queries ``query`` (1 words, 2 regions) and this precision of small products.

    At least 8 for "tf32x3", which has twice the operands, and for gradients of word queries, which keep the gradient of
    the image's Gram matrix in registers.
    """
    return max(8, plan.warps) if precision == "tf32x3" or (kernel == "pair_gradients" and query == 1) else plan.warps


def architecture(device: torch.device) -> int:
    """Architecture of a GPU: 80, 90, 100, …; 0 in the interpreter."""
    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def turned(kernel: str, arch: int, words: int, options: dict[str, Any]) -> bool:
    """Whether the Gram product of word queries is turned: words × regions instead of regions × words.

    The product instructions of sm_90 (warpgroups) and sm_100 (tensor memory) take 64 rows, the regions, and lay results
    out by rows, so that every thread keeps the many numbers of a refinement for 4 or 8 words. Turned, the product has
    fewer rows and is one of single warps (``mma``), whose results lie in squares. Compiled for CMSEI with 32 words,
    sm_100: turned gradients take 206 registers and spill nothing, instead of 255 and 35 spills; a turned forward pass
    takes 167 registers instead of 244, so that three programs share a multiprocessor instead of two. Both take two
    thirds of the instructions.

    Not turned are, on sm_90, single products of fewer than 64 words, which spill in neither form and stay with the
    warpgroups; and gradients of one step and 16 words, of which two programs share a multiprocessor of sm_100 either
    way. With "tf32x3", every pass spills less when turned.

    Args:
        kernel: ``"pair_scores"`` or ``"pair_gradients"``.
        arch: as :func:`architecture` says.
        words: padded words of a caption.
        options: the kernel's compile-time options.
    """
    if options["PRECISION"] == "tf32x3" or options["QUERY"] == 2:
        return options["PRECISION"] == "tf32x3"
    if arch // 10 == 9:
        return words >= 64
    return kernel == "pair_scores" or options["STEPS"] > 1 or words > 16


def gradient_stages(query: int) -> int:
    """Pipeline stages of a gradient's loops: 1 for region queries, where loading ahead takes too many registers."""
    return 3 if query == 1 else 1


# Launches of at least so many pairs measure their choice; smaller ones take less time than a measurement.
TUNED_PAIRS = 1 << 15


def candidates(words: int, regions: int, query: int, precision: str) -> list[Launch]:
    """The launches that are measured for large problems, the fixed choice first.

    Half or twice the columns trade reuse of the image's Gram matrix for programs per multiprocessor; twice the warps
    trade registers per thread for synchronisation.
    """
    fixed = launch("pair_scores", words, regions)
    fixed = fixed._replace(warps=pass_warps("pair_scores", fixed, query, precision))
    variants = [fixed._replace(captions=max(1, fixed.captions // 2)), fixed._replace(captions=2 * fixed.captions)]
    variants.append(fixed._replace(warps=min(16, 2 * fixed.warps)))
    return list(dict.fromkeys([fixed, *variants]))


@functools.lru_cache(maxsize=8)
def choices(device: int) -> Choices:
    """The choices measured on this GPU."""
    import triton

    return Choices(torch.cuda.get_device_name(device), triton.__version__)


def tuned(
    words: int,
    regions: int,
    options: dict[str, Any],
    pairs: int,
    device: torch.device,
    launch_kernel: Callable[[Launch], Any],
) -> Launch:
    """The fixed choice for small problems and in the interpreter, else the fastest of :func:`candidates`.

    During CUDA graph capture nothing can be measured; an earlier measurement is used, or the fixed choice.

    Args:
        options: the kernel's compile-time options.
        launch_kernel: launches the kernel as it is told.
    """
    plans = candidates(words, regions, options["QUERY"], options["PRECISION"])
    if device.type != "cuda" or pairs < TUNED_PAIRS:
        return plans[0]
    measured = choices(torch.cuda.current_device() if device.index is None else device.index)
    option_text = " ".join(f"{name}={options[name]}" for name in sorted(options) if name not in ("GATES", "ADD"))
    key = f"pair_scores {words} {regions} {option_text}"
    if torch.cuda.is_current_stream_capturing():
        return plans[measured.known(key, plans) or 0]
    return plans[measured.best(key, plans, lambda x: seconds(lambda: launch_kernel(x)))]


def seconds(launch_kernels: Callable[[], Any]) -> float:
    """Shortest of five timed runs on the GPU, after one that compiles; for comparison only (in milliseconds)."""
    launch_kernels()
    times = []
    for _ in range(5):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        launch_kernels()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return min(times)
