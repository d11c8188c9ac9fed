"""How a Triton kernel is launched: captions of a tile, warps, groups of captions of one program, form of its products.

A fixed choice, with which the compiler reports no spills for sm_80, sm_90 and sm_100 but those that
``tests/test_triton_compiled.py`` names. Warps for images of 64 regions, by captions' padded words and by how small
products are multiplied:

=========================  ==========  ==========  ========  ==========
kernel                     16, tf32    32, tf32    64, tf32  any, tf32x3
=========================  ==========  ==========  ========  ==========
forward                    4           4           8         8
gradients, words ask       8           8           8         8
gradients, regions ask     4           8           8         8
=========================  ==========  ==========  ========  ==========

A forward tile has 32 columns at least: two captions of 16 words. More than 8 warps would leave a thread 128 registers.
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


def fitting(run: Callable[[], R]) -> R | None:
    """What run returns, or None, with one warning, where a kernel needs more of this GPU than there is."""
    from triton.runtime.errors import OutOfResources

    try:
        return run()
    except OutOfResources as error:
        warn_once(f"engine 'triton': a kernel does not fit this GPU ({error}); 'eager' computes this")
        return None


@functools.lru_cache(maxsize=8)
def warn_once(message: str) -> None:
    """A warning, unless it was given before."""
    warnings.warn(message, stacklevel=4)


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
    return Launch(columns // words, min(8, max(4, regions * columns // (32 * numbers))), 16)


def pass_warps(kernel: str, how: Launch, query: int, precision: str) -> int:
    """Warps of a pass where ``query`` asks (1 words, 2 regions) and small products are multiplied so.

    Three products in place of one have twice the operands; where words ask, the gradient of the image's Gram matrix is
    in registers.
    """
    return max(8, how.warps) if precision == "tf32x3" or (kernel == "pair_gradients" and query == 1) else how.warps


def architecture(device: torch.device) -> int:
    """Of a GPU: 80, 90, 100 …; 0 in the interpreter."""
    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def turned(kernel: str, arch: int, words: int, options: dict[str, Any]) -> bool:
    """Whether the product of words that ask and the image's Gram matrix has the words for its rows.

    The instructions of sm_90's warpgroups and of sm_100's tensor memory take 64 rows, the regions, and lay results out
    by rows: every thread keeps what belongs to 4 or 8 words, of the many numbers of a refinement. With fewer rows the
    product is by single warps' ``mma``, and its results lie in squares. Compiled for CMSEI and 32 words: gradients for
    sm_100 take 206 registers and spill nothing, not 255 and 35; a forward pass 167, not 244, so that three programs
    share a multiprocessor, not two; both two thirds of the instructions.

    Not turned: on sm_90, single products of fewer than 64 words, which spill in neither form and stay the warpgroups';
    gradients of one step and 16 words, of which two programs share a multiprocessor of sm_100 as they are. Where
    products are split in three, all passes spill less turned.

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
    """Stages of the loads in loops: where regions ask, loading a Gram matrix ahead costs sm_100 the last registers."""
    return 3 if query == 1 else 1


# Pairs of a launch from which the choice is measured: fewer take less time than measuring them.
TUNED_PAIRS = 1 << 15


def candidates(words: int, regions: int, query: int, precision: str) -> list[Launch]:
    """What is measured for large problems.

    The fixed choice; half and twice the columns, which trades reuse of the image's Gram matrix for programs a
    multiprocessor; twice the warps, which trades registers a thread for synchronisation.
    """
    fixed = launch("pair_scores", words, regions)
    fixed = fixed._replace(warps=pass_warps("pair_scores", fixed, query, precision))
    others = [fixed._replace(captions=max(1, fixed.captions // 2)), fixed._replace(captions=2 * fixed.captions)]
    others.append(fixed._replace(warps=min(16, 2 * fixed.warps)))
    return list(dict.fromkeys([fixed, *others]))


@functools.lru_cache(maxsize=8)
def choices(device: int) -> Choices:
    """What has been measured on this GPU."""
    import triton

    return Choices(torch.cuda.get_device_name(device), triton.__version__)


def tuned(
    words: int,
    regions: int,
    options: dict[str, Any],
    pairs: int,
    device: torch.device,
    run: Callable[[Launch], Any],
) -> Launch:
    """The fixed choice for small problems and in the interpreter, else the fastest of :func:`candidates`.

    While a CUDA graph is captured nothing can be measured, but what was measured before holds.

    Args:
        options: the kernel's compile-time options.
        run: launches the kernel.
    """
    found = candidates(words, regions, options["QUERY"], options["PRECISION"])
    if device.type != "cuda" or pairs < TUNED_PAIRS:
        return found[0]
    measured = choices(torch.cuda.current_device() if device.index is None else device.index)
    rest = " ".join(f"{name}={options[name]}" for name in sorted(options) if name not in ("GATES", "ADD"))
    key = f"pair_scores {words} {regions} {rest}"
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
