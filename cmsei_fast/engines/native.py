"""The CPU engine: C++ kernels in ``csrc/``, one variant per instruction set, on torch's threads.

Numerics: products, attention and sums are float32 (float64 for ``"float64"``) whatever the features' type. Products of
``"int8"`` are computed in whole numbers if the processor has instructions for that. Results do not depend on the number
of threads.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from . import eight_bits
from .native_relation import relation_attention, relation_attention_backward, rows_of
from .terms import accumulator

__all__ = [
    "current_isa",
    "isas",
    "limits",
    "pair_score",
    "pair_score_backward",
    "pair_score_listed",
    "relation_attention",
    "relation_attention_backward",
    "rounds",
    "unavailable",
    "use_isa",
]

_Side = tuple[Tensor, Tensor]  # rows and offsets as the kernels read them
_STORAGE = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
_forced: list[str] = []
# Variants whose instructions multiply pairs of bfloat16.
_PAIRS = ("avx512bf16", "avx512amx")
# How many arguments the compiled functions take.
_ARGUMENTS = {
    "multiplies_int8": 1,
    **{f"pair_score_{kind}": 10 for kind in ("f32", "f64")},
    **{f"pair_score_listed_{kind}": 11 for kind in ("f32", "f64")},
    **{f"pair_score_backward_{kind}": 12 for kind in ("f32", "f64")},
    **{f"relation_attention_{kind}": 7 for kind in ("f32", "f64")},
    **{f"relation_attention_backward_{kind}": 9 for kind in ("f32", "f64")},
    **{f"similarity_{kind}": 9 for kind in ("f32", "f64")},
}


def _module() -> Any:
    from cmsei_fast import _native

    return _native


def unavailable() -> str | None:
    """Why this engine cannot run here; None if it can."""
    try:
        module = _module()
    except ImportError as error:
        return f"the compiled module cmsei_fast._native cannot be imported ({error}); reinstall with a C++17 compiler"
    if (reason := _stale_build_reason(module)) is not None:
        return reason
    wanted = os.environ.get("CMSEI_ISA")
    if wanted and wanted not in module.isas():
        return f"CMSEI_ISA={wanted}: this processor and build have {', '.join(module.isas())}"
    return None


def rounds(precision: str) -> bool:
    """Whether the pair score and its gradient round the features to this precision of 8 bits themselves."""
    return precision == "int8" and bool(_module().multiplies_int8(current_isa()))


def limits() -> str:
    """Says which narrow types the variant in use multiplies directly, and how the others are computed."""
    can = {"bfloat16": current_isa() in _PAIRS, "int8": rounds("int8")}
    kept, widened = ([name for name, own in can.items() if own is wanted] for wanted in (True, False))
    parts = [f"multiplies {' and '.join(kept)} as such"] if kept else []
    wider = "bfloat16" if can["bfloat16"] else "float32"
    parts += [f"rounds to {' and '.join(widened)}, but multiplies in {wider}"] if widened else []
    return "; ".join(parts)


@functools.cache
def _stale_build_reason(module: Any) -> str | None:
    """Says why the compiled module does not match this package, as in a checkout updated without a new build."""
    for name, count in _ARGUMENTS.items():
        found = len(re.findall(r"\barg\d+:", getattr(getattr(module, name, None), "__doc__", None) or ""))
        if found != count:
            reason = (
                f"the compiled module cmsei_fast._native was built from other sources than this package ({name} takes "
                f"{found} arguments, not {count}): `pip install -e .` builds it again"
            )
            warnings.warn(f"{reason}; until then torch computes in its place, slower", stacklevel=2)
            return reason
    return None


def isas() -> list[str]:
    """Instruction-set variants that this processor and build have, slowest first."""
    return list(_module().isas())


def current_isa() -> str:
    """The variant in use: that of :func:`use_isa`, else of the environment's ``CMSEI_ISA``, else the fastest."""
    return _forced[-1] if _forced else os.environ.get("CMSEI_ISA") or isas()[-1]


@contextlib.contextmanager
def use_isa(name: str) -> Iterator[None]:
    """Run with the variant ``name`` inside the block.

    Raises:
        ValueError: for a variant that is not in :func:`isas`.
    """
    if name not in isas():
        raise ValueError(f"name: expected one of {', '.join(isas())}, got {name!r}")
    _forced.append(name)
    try:
        yield
    finally:
        _forced.pop()


def _offsets(offsets: Tensor) -> Tensor:
    return offsets.to(device="cpu", dtype=torch.int64).contiguous()


def _sides(
    regions: Tensor, words: Tensor, region_offsets: Tensor, word_offsets: Tensor, precision: str
) -> tuple[_Side, _Side, bool]:
    """Both sides as the kernels read them, and whether they round them to ``"int8"``."""
    int8 = precision == "int8"
    v, w = (rows_of(x, x.dtype if int8 else getattr(torch, precision)) for x in (regions, words))
    return (v, _offsets(region_offsets)), (w, _offsets(word_offsets)), int8


def _items(rows: Tensor, offsets: Tensor) -> tuple[int, int, int, int, int]:
    return rows.data_ptr(), _STORAGE[rows.dtype], rows.stride(0), offsets.data_ptr(), offsets.numel() - 1


def _run(
    name: str,
    images: _Side,
    captions: _Side,
    config: list[int],
    scalars: Tensor,
    dtype: torch.dtype,
    *addresses: int,
    int8: bool | None = None,
) -> None:
    """Calls a compiled function in its float64 or float32 form; ``addresses`` are its own addresses and strides.

    ``int8`` is passed only to functions that can round the rows themselves.
    """
    function = getattr(_module(), f"{name}_f64" if dtype == torch.float64 else f"{name}_f32")
    function(
        _items(*images),
        _items(*captions),
        images[0].shape[1],
        list(config),
        scalars.detach().double().tolist(),
        *addresses,
        torch.get_num_threads(),
        current_isa(),
        *(() if int8 is None else (int8,)),
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
    """Scores (N, M) of packed regions (ΣR, D) and words (ΣL, D); arguments as the operator has checked them."""
    images, captions, int8 = _sides(regions, words, region_offsets, word_offsets, precision)
    count = region_offsets.numel() - 1, word_offsets.numel() - 1
    out = torch.empty(count, dtype=accumulator(precision), device="cpu")
    if out.numel():
        addresses = out.data_ptr(), out.stride(0)
        _run("pair_score", images, captions, config, scalars, out.dtype, *addresses, int8=int8)
    return out


def pair_score_listed(
    regions: Tensor,
    words: Tensor,
    region_offsets: Tensor,
    word_offsets: Tensor,
    scalars: Tensor,
    config: list[int],
    precision: str,
    wanted: Tensor,
) -> Tensor:
    """Scores (n,) of the n pairs that ``wanted`` (N, M) bool marks, in its order, row by row.

    The other arguments are those of :func:`pair_score`, and each score has the bits that it has there.
    """
    images, captions, int8 = _sides(regions, words, region_offsets, word_offsets, precision)
    listed = wanted.nonzero()[:, 1].contiguous()
    first = torch.nn.functional.pad(wanted.sum(1).cumsum(0), (1, 0)).contiguous()
    out = torch.empty(len(listed), dtype=accumulator(precision), device="cpu")
    if out.numel():
        addresses = first.data_ptr(), listed.data_ptr(), out.data_ptr()
        _run("pair_score_listed", images, captions, config, scalars, out.dtype, *addresses, int8=int8)
    return out


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
    """Gradients of the regions, the words and the scalars, in their dtypes; the inner products are computed again."""
    wide = accumulator(precision)
    dtype = torch.bfloat16 if precision == "int8" else getattr(torch, precision)
    sides = (regions, words) if precision != "int8" else (eight_bits.rounded(x, precision) for x in (regions, words))
    v, w = (rows_of(x, dtype) for x in sides)
    if grad.numel() == 0:
        return torch.zeros_like(regions), torch.zeros_like(words), torch.zeros_like(scalars)
    grad = grad.detach().to(wide).contiguous()
    d_v, d_w = (torch.empty(x.shape, dtype=wide, device="cpu") for x in (v, w))
    d_scalars = torch.empty(scalars.numel(), dtype=torch.float64, device="cpu")
    images, captions = (v, _offsets(region_offsets)), (w, _offsets(word_offsets))
    addresses = grad.data_ptr(), grad.stride(0), d_v.data_ptr(), d_w.data_ptr(), d_scalars.data_ptr()
    _run("pair_score_backward", images, captions, config, scalars, wide, *addresses)
    return d_v.to(regions.dtype), d_w.to(words.dtype), d_scalars.to(scalars.dtype)
