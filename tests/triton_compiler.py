"""Kernels compiled by Triton without a GPU, and what became of them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

triton = pytest.importorskip("triton")

# Bytes of shared memory that a block may have.
SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
# Triton 3.6, that of torch 2.11, puts a few more values on the stack than 3.7.
OLDER = tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7)


class Compiled(NamedTuple):
    """What the compiler made of a kernel."""

    registers: int
    spills: int  # instructions that store to the stack
    shared: int
    ptx: str
    code: str  # SASS
    tensor: int  # columns of tensor memory; of more than 512 Triton compiles a trap and refuses the launch


def tool(name: str) -> str:
    """A program of the CUDA toolkit that comes with Triton."""
    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)


def signature(kernel: Any, types: dict[str, str], options: dict[str, Any]) -> dict[str, str]:
    """Types of the kernel's arguments: those named, 64-bit places, 32-bit numbers, pointers to float32 for the rest."""
    out = {}
    for name in kernel.arg_names:
        if name in options:
            out[name] = "constexpr"
        elif name in types:
            out[name] = types[name]
        elif name.endswith(("order", "offsets")):
            out[name] = "*i64"
        elif (
            name in kernel.do_not_specialize
            or name in ("stride", "heads", "width")
            or re.fullmatch("stride_[qkv][bhr]", name)
        ):
            out[name] = "i32"
        else:
            out[name] = "*fp32"
    return out


def build(
    kernel: Any, arch: int, warps: int, types: dict[str, str], options: dict[str, Any], tmp: Path, stages: int = 3
) -> Compiled:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = signature(kernel, types, options)
    names = kernel.arg_names
    aligned = [
        n
        for n in names
        if types[n].startswith("*") or re.fullmatch("(word_|region_)?stride|width|stride_[qkv][bhr]", n)
    ]
    source = ASTSource(
        fn=kernel,
        signature=types,
        constexprs={(names.index(n),): x for n, x in options.items()},
        attrs={(names.index(n),): [["tt.divisibility", 16]] for n in aligned},
    )
    chosen = {"num_warps": warps, "num_stages": stages}
    made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=chosen)
    file = tmp / "kernel.cubin"
    file.write_bytes(made.asm["cubin"])
    usage = subprocess.run([tool("cuobjdump"), "-res-usage", file], capture_output=True, text=True, check=True).stdout
    code = subprocess.run([tool("nvdisasm"), "-c", file], capture_output=True, text=True, check=True).stdout
    tensor = getattr(made.metadata, "tmem_size", None) or 0
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found is not None, usage
    return Compiled(int(found[1]), len(re.findall(r"\bSTL", code)), made.metadata.shared, made.asm["ptx"], code, tensor)
