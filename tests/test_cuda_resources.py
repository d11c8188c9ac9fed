"""What the compiler made of each CUDA kernel, read from the module: registers, stack, shared memory, instructions."""

from __future__ import annotations

import collections
import functools
import importlib.util
import itertools
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import pytest

SPEC = importlib.util.find_spec("cmsei_fast._cuda")

BUILD = Path(__file__).parents[1] / "build" / f"cmsei_fast-{sys.implementation.cache_tag}-{sysconfig.get_platform()}"
# Most bytes of shared memory that a kernel may have without asking for more at its launch, which all of these do.
STATIC_SHARED = 48 * 1024
# Instances of each kernel's family: pair_kernel is (float, double) x (warps, a block) x (scores, gradients),
# relation_attention_kernel the four types x three widths, relation_gradient_kernel the four types; ampere_kernel
# and hopper_kernel, which is empty but on sm_90a, take both of their types.
FAMILIES = {"pair_kernel": 8, "relation_attention_kernel": 12, "relation_gradient_kernel": 4}
FAMILIES |= {"hopper_kernel": 1, "ampere_kernel": 1}


def tool(name: str) -> str | None:
    """A tool of the CUDA toolkit, or the one that triton brings."""
    if found := shutil.which(name) or shutil.which(name, path="/usr/local/cuda/bin"):
        return found
    triton = importlib.util.find_spec("triton")
    bundled = triton and Path(triton.submodule_search_locations[0]) / "backends" / "nvidia" / "bin" / name
    return str(bundled) if bundled and os.access(bundled, os.X_OK) else None


pytestmark = [
    pytest.mark.skipif(SPEC is None, reason="cmsei_fast._cuda is not built (no nvcc, or CMSEI_CUDA=0)"),
    pytest.mark.skipif(tool("cuobjdump") is None, reason="no cuobjdump, neither of CUDA nor of triton"),
]


class Kernel(NamedTuple):
    architecture: str
    name: str
    used: dict[str, int]  # REG, STACK, SHARED, LOCAL, ...


def kernels(listing: str) -> list[Kernel]:
    """Every kernel of ``cuobjdump --dump-resource-usage``, for each architecture."""
    found, architecture, name = [], "", ""
    for line in listing.splitlines():
        if match := re.match(r"arch = (\S+)", line):
            architecture = match[1]
        elif match := re.match(r"\s*Function (\S+):", line):
            name = match[1]
        elif name and (pairs := re.findall(r"([A-Z]+)(?:\[\d+\])?:(\d+)", line)):
            found.append(Kernel(architecture, name, {key: int(value) for key, value in pairs}))
            name = ""
    return found


@pytest.fixture(scope="module")
def built() -> list[Kernel]:
    command = [str(tool("cuobjdump")), "--dump-resource-usage", str(SPEC.origin)]
    return kernels(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_the_report_is_understood() -> None:
    listing = (
        "Fatbin elf code:\narch = sm_80\nResource usage:\n Common:\n  GLOBAL:0 CONSTANT[3]:24\n Function _Z1fv:\n"
        "  REG:40 STACK:8 SHARED:16 LOCAL:0 CONSTANT[0]:360 TEXTURE:0 SURFACE:0 SAMPLER:0\n"
    )
    assert [(k.architecture, k.name) for k in kernels(listing)] == [("sm_80", "_Z1fv")]
    assert kernels(listing)[0].used.items() >= {"REG": 40, "STACK": 8, "SHARED": 16, "LOCAL": 0}.items()


def test_every_kernel_is_there_for_every_architecture(built: list[Kernel]) -> None:
    """But that by mma.sync not for GPUs that have the Hopper kernel, unless there are no others."""
    import cmsei_fast._cuda as module

    counts = collections.Counter(
        (kernel.architecture, family)
        for kernel in built
        for family in FAMILIES
        if f"{len(family)}{family}" in kernel.name
    )
    architectures = [f"sm_{name}" for name in module.architectures.split(";")]
    wanted = {(arch, family): n for arch in architectures for family, n in FAMILIES.items()}
    if architectures != ["sm_90a"]:
        wanted.pop(("sm_90a", "ampere_kernel"), None)
    assert counts == wanted
    assert len(built) == sum(counts.values())


def test_no_kernel_spills_or_asks_for_too_much(built: list[Kernel]) -> None:
    assert built
    for kernel in built:
        assert 0 < kernel.used["REG"] <= 255, kernel
        assert kernel.used["STACK"] == kernel.used["LOCAL"] == 0, kernel
        assert kernel.used["SHARED"] <= STATIC_SHARED, kernel


@functools.cache
def listing(architecture: str, kernel: str) -> str:
    """A kernel's instructions; skips the test without the architecture."""
    import cmsei_fast._cuda as module

    if architecture not in module.architectures.split(";"):
        pytest.skip(f"the module was built without {architecture}")
    command = [str(tool("cuobjdump")), "-sass", "-arch", f"sm_{architecture}", str(SPEC.origin)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = [x for x in listed.split("Function : ") if f"{len(kernel)}{kernel}" in x.split("\n", 1)[0]]
    assert len(found) == 1
    return found[0]


def instructions(architecture: str, kernel: str, of: str) -> collections.Counter[str]:
    """How often each instruction that matches ``of`` stands in a kernel."""
    return collections.Counter(re.findall(of, listing(architecture, kernel)))


def most_register(code: dict[int, str], start: str) -> int:
    """The highest register of all that can run from the one instruction on whose text begins so.

    ``code``: address to text. Branches and calls are followed and not followed; a return ends what is known.
    """
    order = sorted(code)
    after = dict(itertools.pairwise(order))
    begin = [at for at in order if code[at].startswith(start)]
    assert len(begin) == 1
    seen, left = set(), begin
    while left:
        at = left.pop()
        if at in seen:
            continue
        seen.add(at)
        if to := re.search(r"\b(?:BRA|CALL|BSSY|WARPSYNC\.COLLECTIVE)\b.*\b0x([0-9a-f]+)$", code[at]):
            left.append(int(to[1], 16))
        if not re.match(r"BRA 0x|EXIT|RET", code[at]) and at in after:
            left.append(after[at])
    return max(int(register) for at in seen for register in re.findall(r"\bR(\d+)\b", code[at]))


# Instructions of the pairs' fragments (csrc/include/team_fragments.h): of each number of tiles, each by each where a
# step follows, by those not before it in the last; three products for two eights of queries, two for one alone. Forms
# (eights of queries, tiles) of either direction, of the usual and of any, those of the usual of 17 to 24 words, and
# those in which means ask.
_FORMS = [*((rows, tiles) for rows, tiles in [(5, 2), (2, 4), (2, 5)] for _ in range(4)), (3, 4), (3, 5), (5, 3)]
_FORMS += [(5, 2), (2, 5), (5, 3), (3, 5)]
PAIR_PRODUCTS = {"HMMA.1688.F32.TF32": sum((3 * (r // 2) + 2 * (r % 2)) * (n**2 + n * (n + 1) // 2) for r, n in _FORMS)}


def test_the_hopper_kernel_is_made_of_its_instructions() -> None:
    cluster = r"UTMALDG\S+|UCGABAR_\w+|SYNCS\.ARRIVE\.TRANS64\.RED\S+|MEMBAR\.ALL\.(?!CTA)\w+|CCTL\S+"
    counts = instructions("90a", "hopper_kernel", rf"([HQI]G?MMA\S+|{cluster}|USETMAXREG\.\S+|STL|LDL)")
    # Four steps of a stage each of every type, a share of words and one of regions, registers handed over.
    wanted = {"HGMMA.64x144x16.F32": 4, "HGMMA.64x144x16.F32.BF16": 4, "QGMMA.64x144x32.F32.E4M3.E4M3": 4}
    wanted |= {"IGMMA.64x144x32.S8.S8": 4}
    wanted |= {"UTMALDG.2D.MULTICAST": 2}
    # Stages released to the cluster's blocks (two of each type whose sums stay, one of e4m3) and the tile. The cluster
    # meets twice, and nothing else waits for the memory of the device or empties the first cache.
    wanted |= {"SYNCS.ARRIVE.TRANS64.RED.A1T0": 8}
    wanted |= dict.fromkeys(("UCGABAR_ARV", "UCGABAR_WAIT", "MEMBAR.ALL.GPU", "CCTL.IVALL"), 2)
    registers = {"USETMAXREG.DEALLOC.CTAPOOL": 1, "USETMAXREG.TRY_ALLOC.CTAPOOL": 1}
    assert counts == wanted | registers | PAIR_PRODUCTS


def test_the_hopper_kernels_warps_live_on_the_registers_they_keep_or_get(built: list[Kernel]) -> None:
    """24 of the producers, 232 of the consumers: what both began with, or the consumers would wait for ever."""
    text = listing("90a", "hopper_kernel")
    code = {int(at, 16): x.strip() for at, x in re.findall(r"/\*([0-9a-f]{4,})\*/\s+([^;]+);", text)}
    begin = ("USETMAXREG.DEALLOC", "USETMAXREG.TRY_ALLOC")
    counts = [int(x.split("0x")[1], 16) for start in begin for x in code.values() if x.startswith(start)]
    assert counts == [24, 232]
    assert most_register(code, begin[0]) < 24
    assert 128 <= most_register(code, begin[1]) < 232
    begun = [k.used["REG"] for k in built if k.architecture == "sm_90a" and "13hopper_kernel" in k.name]
    assert [2 * n for n in begun] == [sum(counts)]


def test_the_ampere_kernel_is_made_of_its_instructions() -> None:
    counts = instructions("80", "ampere_kernel", r"(HMMA\S+|LDSM\.\S+|LDGSTS\S+|STL|LDL)")
    # Four steps of a stage of 2 x 9 products of 16 x 8, each for float16 and bfloat16, and nothing through the stack.
    assert counts["HMMA.16816.F32"] == counts["HMMA.16816.F32.BF16"] == 4 * 2 * 9
    assert counts.items() >= PAIR_PRODUCTS.items()
    assert sum(n for name, n in counts.items() if name.startswith("LDSM")) == 2 * 4 * (2 + 4 + 1)
    assert any(name.startswith("LDGSTS") for name in counts)
    assert not counts.keys() & {"STL", "LDL"}


@pytest.mark.skipif(not BUILD.is_dir(), reason="built elsewhere: the compiler's report is not here")
def test_the_compiler_lets_products_overlap() -> None:
    report = (BUILD / "cuda" / "hopper_scores.o.ptxas.txt").read_text()
    assert "hopper_kernel" in report
    assert "serialized" not in report
    assert "setmaxnreg ignored" not in report
