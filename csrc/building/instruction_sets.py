"""The instruction sets that the CPU module is compiled for."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

from . import tools

_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", *_AVX2)
# Instruction set -> (compiler flags, bytes of a vector). Each file of csrc/cpu/isa is compiled once for each.
VARIANTS: dict[str, tuple[tuple[str, ...], int]] = {
    "baseline": ((), 16),
    "avx2": (_AVX2, 32),
    "avx512": (_AVX512, 64),
}
# The same of csrc/cpu/bf16 and csrc/cpu/int8, whose products are added to the kernels of an instruction set as wide.
BFLOAT16: dict[str, tuple[tuple[str, ...], int]] = {
    "avx512bf16": ((*_AVX512, "-mavx512bf16"), 64),
    "avx512amx": ((*_AVX512, "-mamx-tile", "-mamx-bf16"), 64),
}
INT8: dict[str, tuple[tuple[str, ...], int]] = {
    "avxvnni": ((*_AVX2, "-mavxvnni"), 32),
    "avx512vnni": ((*_AVX512, "-mavx512vnni"), 64),
    "amxint8": ((*_AVX512, "-mamx-tile", "-mamx-int8"), 64),
}
PRODUCTS = BFLOAT16 | INT8
PROBE = """
typedef float V __attribute__((vector_size(64)));
void f(V* a, V* b) { *a = *a * *b + *a; }
#if defined(__AMX_BF16__) || defined(__AMXBF16__)
#include <immintrin.h>
void g() { _tile_dpbf16ps(0, 1, 2); }
#elif defined(__AMX_INT8__) || defined(__AMXINT8__)
#include <immintrin.h>
void g() { _tile_dpbssd(0, 1, 2); }
#endif
"""


def x86() -> bool:
    """Whether this machine has the instruction sets of ``VARIANTS``; any other has the baseline alone."""
    return platform.machine().lower() in ("x86_64", "amd64")


def supported_variants(
    compiler: list[str], directory: Path, variants: Mapping[str, tuple[tuple[str, ...], int]]
) -> tuple[list[str], dict[str, str]]:
    """The instruction sets to build, and why each of the others is left out."""
    if not x86():
        return [name for name, (flags, _) in variants.items() if not flags], {}
    # A product of vectors, or of tiles, makes the assembler, not only the compiler, take the instructions.
    probe = directory / "probe.cpp"
    probe.write_text(PROBE)
    built, left_out = [], {}
    for name, (flags, _) in variants.items():
        if not flags or tools.output_of(*compiler, *flags, "-O1", "-c", str(probe), "-o", os.devnull) is not None:
            built.append(name)
        else:
            left_out[name] = f"{compiler[0]} does not take {' '.join(flags)}"
    return built, left_out
