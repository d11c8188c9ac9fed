"""Which variants of the native engine are chosen for a processor, whatever processor this is."""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

import pytest
from cuda_on_host import COMPILER, compiled

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler"),
    pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="variants are of x86-64"),
]

HAS = ("avx2", "avx512", "avx512bf16", "avxvnni", "avx512vnni", "bf16 tiles", "int8 tiles")
ZEN_4 = "avx2 avx512 avx512bf16 avx512vnni"

CASES = {
    "none": ("", "baseline"),
    "AVX2": ("avx2", "baseline avx2"),
    "AVX-VNNI": ("avx2 avxvnni", "baseline avx2+avxvnni"),
    "AVX-512": ("avx2 avx512", "baseline avx2 avx512"),
    "AVX512-VNNI": ("avx2 avx512 avx512vnni", "baseline avx2 avx512+avx512vnni"),
    "AVX512-BF16": (ZEN_4, "baseline avx2 avx512+avx512vnni avx512bf16+pairs+avx512vnni"),
    "AMX": (
        f"{ZEN_4} avxvnni,bf16 tiles,int8 tiles",
        "baseline avx2+avxvnni avx512+avx512vnni avx512bf16+pairs+avx512vnni avx512amx+tiles+amxint8",
    ),
    "AMX-BF16 without AMX-INT8": (
        f"{ZEN_4},bf16 tiles",
        "baseline avx2 avx512+avx512vnni avx512bf16+pairs+avx512vnni avx512amx+tiles",
    ),
    "AMX-INT8 without AMX-BF16": (
        f"{ZEN_4},int8 tiles",
        "baseline avx2 avx512+avx512vnni avx512bf16+pairs+avx512vnni",
    ),
}


@pytest.fixture(scope="module")
def dispatch(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return ctypes.CDLL(str(compiled("dispatch_host.cpp", Path(tmp_path_factory.mktemp("dispatch")))))


@pytest.mark.parametrize(("has", "expected"), CASES.values(), ids=CASES)
def test_variants_of_a_processor(has: str, expected: str, dispatch: ctypes.CDLL) -> None:
    """In their order, the fastest last, each with the products of pairs and of whole numbers that it is given."""
    plain, *tiles = has.split(",")
    names = [*plain.split(), *tiles]
    out = ctypes.create_string_buffer(200)
    dispatch.chosen(sum(1 << HAS.index(name) for name in names), out, ctypes.c_size_t(len(out)))
    assert out.value.decode() == expected
