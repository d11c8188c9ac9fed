"""Engine ``cuda``: the compiled kernels of ``csrc/cuda`` on an NVIDIA GPU.

``pair_score`` multiplies a chunk at a time by a library and runs one kernel over the products, forward and backward,
for every option of the scorer. Scores of 16-bit features come from a single kernel that multiplies and scores. GPUs of
compute capability 9.0 have their own, which also takes ``"float8"`` and ``"int8"``; elsewhere these are computed in
bfloat16 with the same rounded numbers. ``relation_attention`` is one kernel forward and one backward, which computes
the weights again. Sums are float32 (float64 for float64 inputs), in a fixed order.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from cmsei_fast.engines import cuda_pair, cuda_relation, cuda_tiles, eager, eight_bits
from cmsei_fast.engines.cuda_relation import MAX_HEAD_DIM, TYPES
from cmsei_fast.engines.scalars import scalars_on

_KERNELS = {"hopper": "TMA and wgmma", "mma": "mma.sync", "library": "a library's product and a kernel over it"}
_REBUILD = "with the CUDA toolkit (nvcc) installed, run `CMSEI_CUDA=1 pip install -e .`"


def unavailable(device: torch.device | None = None) -> str | None:
    """Why the engine cannot run on the device (None: the current GPU), and what to do; None if it can. Never raises."""
    try:
        module = _module()
    except ImportError as error:
        reason = _build_reason()
        return f"cmsei_fast._cuda {f'was not built: {reason}' if reason else f'cannot be loaded ({error})'}; {_REBUILD}"
    if not torch.cuda.is_available():
        count, problem = module.device_count()
        if torch.version.cuda is None:
            return "this build of torch has no CUDA; install one that has"
        return f"torch sees no CUDA GPU (CUDA's runtime sees {count}{f': {problem}' if problem else ''})"
    major, minor = torch.cuda.get_device_capability(device)
    if not _has_code(module.architectures.split(";"), major, minor):
        return (
            f"cmsei_fast._cuda was built for {module.architectures}, the GPU is {major}{minor}; "
            f"run `CMSEI_CUDA_ARCHS={major}{minor} CMSEI_CUDA=1 pip install -e .`"
        )
    return None


def rounds(precision: str) -> bool:
    """Whether the pair score and its gradient round the features to this precision of 8 bits themselves."""
    return precision in eight_bits.FORMATS


def limits() -> str:
    """Says which problems the kernels leave to ``eager``."""
    choice = _tiles("bfloat16", torch.device("cuda"))
    scores = f"16-bit scores by {_KERNELS[choice.kernel]}{f' ({choice.reason})' if choice.reason else ''}"
    eight_bit = "as such" if choice.kernel == "hopper" else "as bfloat16"
    return (
        f"{scores}; float8 and int8 multiplied {eight_bit}; eager takes problems with a pair of more than "
        f"{cuda_pair.MAX_NUMBERS} inner products or with options of the scorer that the kernels do not know, and "
        f"gradients of graphs whose edges do not fit a block's shared memory; heads of at most {MAX_HEAD_DIM}"
    )


def pair_score(
    regions: Tensor,
    words: Tensor,
    region_offsets: Tensor,
    word_offsets: Tensor,
    scalars: Tensor,
    config: list[int],
    precision: str,
) -> Tensor:
    """Scores (N, M) of packed regions (ΣR, D) and words (ΣL, D); arguments as the operator has checked them.

    Raises:
        RuntimeError: naming the operator, if CUDA refuses a launch.
    """
    is_refused = cuda_pair.refusal(region_offsets, word_offsets, config) is not None
    kernel = _tiles(precision, regions.device).kernel
    if precision == "int8" and regions.shape[1] > cuda_tiles.MOST_WHOLE:
        kernel = "library"
    if precision in eight_bits.FORMATS and (is_refused or kernel != "hopper"):
        regions, words = (eight_bits.rounded_wide(x, precision) for x in (regions, words))
        precision = "bfloat16"
    inputs = regions, words, region_offsets, word_offsets
    if is_refused:
        return eager.pair_score(*inputs, scalars, config, precision)
    device_scalars = scalars_on(regions.device, scalars, precision)
    if kernel == "library":
        return cuda_pair.pair_score(_module(), *inputs, device_scalars, config, precision)
    return cuda_tiles.pair_score(_module(), kernel, *inputs, device_scalars, config, precision)


def pair_score_backward(
    grad: Tensor,
    regions: Tensor,
    words: Tensor,
    region_offsets: Tensor,
    word_offsets: Tensor,
    scalars: Tensor,
    config: list[int],
    precision: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for regions, words and scalars, in their dtypes; the inner products are computed again.

    Raises:
        RuntimeError: naming the operator, if CUDA refuses a launch.
    """
    dtypes = regions.dtype, words.dtype
    if precision in eight_bits.FORMATS:
        regions, words = (eight_bits.rounded_wide(x, precision) for x in (regions, words))
        precision = "bfloat16"
    inputs = regions, words, region_offsets, word_offsets
    if cuda_pair.refusal(region_offsets, word_offsets, config) is not None:
        return eager.pair_score_backward(grad, *inputs, scalars, config, precision)
    device_scalars = scalars_on(regions.device, scalars, precision)
    d_regions, d_words, d_scalars = cuda_pair.pair_score_backward(
        _module(), grad, *inputs, device_scalars, config, precision
    )
    return d_regions.to(dtypes[0]), d_words.to(dtypes[1]), d_scalars.to(scalars.device, scalars.dtype)


def relation_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    value: Tensor | None,
    confidence: Tensor | None,
) -> Tensor:
    """Relation-aware graph attention, forward.

    Args:
        q, k, v: (B, H, R, d) on one GPU, any strides, d <= 256; float32, float64, or float16 and bfloat16 (summed in
            float32).
        labels: (B, R, R) integers, 0 for no edge; below the tables' rows where tables are given. A label outside them
            makes the row of its query NaN.
        bias: (n_labels, H) or None.
        value: (n_labels, H, d) or None.
        confidence: (B, R, R) in (0, 1] or None.

    Returns:
        (B, H, R, d), contiguous, in q's type.

    Raises:
        ValueError: for d > 256 or another type.
        RuntimeError: naming the operator, if CUDA refuses the launch.
    """
    _check(q)
    return cuda_relation.relation_attention(_module(), q, k, v, labels, bias, value, confidence)


def relation_attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    value: Tensor | None,
    confidence: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Gradients (q, k, v, bias, value, confidence), None for a table not given; shapes and errors as forward's.

    Graphs whose edges do not fit a block's shared memory, and tables of many labels, go to the engine ``eager``.
    """
    _check(q)
    return cuda_relation.relation_attention_backward(_module(), grad, q, k, v, labels, bias, value, confidence)


def _check(q: Tensor) -> None:
    if q.dtype not in TYPES:
        raise ValueError(f"q: expected one of {', '.join(TYPES.values())} for engine 'cuda', got {q.dtype}")
    if q.shape[-1] > MAX_HEAD_DIM:
        raise ValueError(f"q: expected a head width of at most {MAX_HEAD_DIM} for engine 'cuda', got {q.shape[-1]}")


def _tiles(precision: str, device: torch.device) -> cuda_tiles.Choice:
    """The kernel that computes scores of this precision on the device."""
    return cuda_tiles.choose(_module(), precision, *_properties(device))


def _properties(device: torch.device) -> tuple[tuple[int, int], int]:
    """The compute capability, and the shared memory of a multiprocessor in bytes, 0 if torch does not report it."""
    if device.type != "cuda":
        return (0, 0), 0
    properties = torch.cuda.get_device_properties(device)
    return (properties.major, properties.minor), getattr(properties, "shared_memory_per_multiprocessor", 0)


def _module() -> ModuleType:
    return importlib.import_module("cmsei_fast._cuda")


def _has_code(architectures: list[str], major: int, minor: int) -> bool:
    """Whether code for ``architectures``, with the PTX that csrc/building adds, runs on a GPU of this capability."""
    bases = [divmod(int(name.rstrip("af")), 10) for name in architectures]
    exact = any(
        base == (major, minor) if name[-1] in "af" else base[0] == major and base[1] <= minor
        for name, base in zip(architectures, bases, strict=True)
    )
    plain = [base for name, base in zip(architectures, bases, strict=True) if name.isdigit()]
    return exact or max(plain or bases) <= (major, minor)


def _build_reason() -> str | None:
    """The build report's reason for leaving the module out; None if it has none."""
    report = Path(__file__).resolve().parents[1] / "build_report.json"
    try:
        return json.loads(report.read_text(encoding="utf-8"))["cuda"]["reason"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
