"""The CPU kernels' sources by compilers that did not build the module here: clang, and those for ARM that there are.

That they compile, and what their inner loop becomes on ARM. What a module for ARM computes is another matter: no
instruction of it can run here.
"""

from __future__ import annotations

import platform
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("csrc/cpu", "csrc/cpu/isa", "csrc/cpu/bf16", "csrc/cpu/int8")
    for path in (ROOT / folder).glob("*.cpp")
)


def works(compiler: str) -> bool:
    """Whether it is here and finds its standard library."""
    command = shlex.split(compiler)
    if shutil.which(command[0]) is None:
        return False
    probe = [*command, "-std=c++17", "-fsyntax-only", "-x", "c++", "-"]
    return subprocess.run(probe, input="#include <thread>", text=True, capture_output=True).returncode == 0


ARM = [name for name in ("aarch64-linux-gnu-g++", "clang++ --target=aarch64-linux-gnu") if works(name)]
ALL = [*ARM, *filter(works, ["clang++"])]


Steps = list[tuple[str, list[str]]]


def every_step(compiler: str, building: ModuleType, directory: Path, patch: pytest.MonkeyPatch) -> Steps:
    """The sources and the flags of all steps with this compiler."""
    if compiler in ARM:
        patch.setattr(building.instruction_sets.platform, "machine", lambda: "aarch64")
    for name in ("CXXFLAGS", "LDFLAGS"):
        patch.delenv(name, raising=False)
    known, command = building.instruction_sets, shlex.split(compiler)
    listed = [known.supported_variants(command, directory, each)[0] for each in (known.VARIANTS, known.PRODUCTS)]
    plan = building.plan.Plan("build/elsewhere")
    building.native.plan_native(plan, command, [], *listed)
    found = re.findall(r": cxx (\S+) .*\n  flags = (.*)", plan.text())
    return [(source, shlex.split(own.replace("$$", "$"))) for source, own in found]


def steps(compiler: str, building: ModuleType, directory: Path, patch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Of each source the flags of a step with this compiler, that for the most instructions."""
    return dict(every_step(compiler, building, directory, patch))


@pytest.mark.skipif(
    not ALL, reason="no compiler but this machine's usual one (Debian has clang, g++-aarch64-linux-gnu)"
)
@pytest.mark.parametrize("compiler", ALL)
def test_every_source_compiles(
    compiler: str, building: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the most instructions; products of narrow numbers for each, as they differ."""
    known = every_step(compiler, building, tmp_path, monkeypatch)
    last = dict(known)
    wanted = [
        (source, own) for source, own in known if source in SOURCES and (own is last[source] or "/isa/" not in source)
    ]
    assert len(wanted) > 10
    for source, own in wanted:
        command = [*shlex.split(compiler), "-Werror", "-fsyntax-only", *own, source]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


X86 = [name for name in ALL if name not in ARM and platform.machine().lower() in ("x86_64", "amd64")]


@pytest.mark.skipif(not X86, reason="no other compiler for this machine, or it is not x86 (Debian has clang)")
@pytest.mark.parametrize(
    ("source", "instruction"),
    [("csrc/cpu/bf16/bf16.cpp", "tdpbf16ps"), ("csrc/cpu/int8/int8.cpp", "tdpbssd")],
    ids=["bfloat16", "int8"],
)
@pytest.mark.parametrize("compiler", X86)
def test_what_is_built_for_tile_registers_multiplies_in_them(
    compiler: str, source: str, instruction: str, building: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compilers differ in the names by which they tell a source that it may."""
    flags = steps(compiler, building, tmp_path, monkeypatch)[source]
    if not any(flag.startswith("-mamx") for flag in flags):
        pytest.skip("the compiler has no such instructions")
    command = [*shlex.split(compiler), *flags, "-S", source, "-o", "-"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert instruction in done.stdout


@pytest.mark.skipif(not ALL, reason="no other compiler (Debian has clang, g++-aarch64-linux-gnu)")
@pytest.mark.parametrize("compiler", ALL)
def test_products_are_fused_by_the_expression(
    compiler: str, building: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clang's own choice in a · b + c · d hangs on how often a product is read, which differs from tile to tile."""
    flags = steps(compiler, building, tmp_path, monkeypatch)["csrc/cpu/isa/pair_score.cpp"]
    wanted = "on" if "clang" in compiler else "fast"
    assert [flag for flag in flags if "contract" in flag] == [f"-ffp-contract={wanted}"]


KERNELS = """
#include "csrc/cpu/micro.h"
namespace cmsei::CMSEI_ISA {
template void micro_row<float, kMR>(int, long, const float*, long, const float*, long, float*, long, bool, Ahead);
template void quadratic_rows<float, kMR>(int, long, const float*, const float*, long, Simd<float>::T*);
template void gram_rows<float, kMR>(int, long, long, const float*, const float*, float*, Simd<float>::T*);
}
"""


def loops(assembly: str) -> list[list[str]]:
    """The instructions of each innermost loop."""
    found: list[list[str]] = []
    since: dict[str, int] = {}
    code: list[str] = []
    for line in assembly.splitlines():
        if label := re.match(r"(\.L\w+):", line):
            since[label[1]] = len(code)
        elif re.match(r"\t[a-z]", line):
            code.append(line.strip())
            back = re.match(r"(?:b\.?\w\w|[ct]bn?z\s.*,|j\w+)\s+(\.L\w+)", code[-1])
            if back and back[1] in since:
                begin = since[back[1]]
                found.append(code[begin:])
                since = {name: at for name, at in since.items() if at > begin}
    return found


@pytest.mark.skipif(not ARM, reason="no compiler for ARM (Debian has g++-aarch64-linux-gnu)")
@pytest.mark.parametrize("compiler", ARM)
def test_inner_loops_on_arm_are_multiply_adds(
    compiler: str, building: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a whole tile: 24 sums in registers, each step's loads shared by them, next to nothing else."""
    source = tmp_path / "kernels.cpp"
    source.write_text(KERNELS)
    flags = steps(compiler, building, tmp_path, monkeypatch)["csrc/cpu/isa/pair_score.cpp"]
    flags.remove("-fvisibility=hidden")
    command = [*shlex.split(compiler), *flags, "-I.", "-S", str(source), "-o", "-"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    whole = [loop for loop in loops(done.stdout) if sum(line.startswith("fmla") for line in loop) >= 96]
    assert len(whole) == 3  # a product, and both of a Gram matrix
    for loop in whole:
        products = sum(line.startswith("fmla") for line in loop)
        assert sum(".s[" in line for line in loop if line.startswith("fmla")) == products
        assert len(loop) <= 1.4 * products
        assert sum("sp" in line for line in loop) <= 4


@pytest.mark.skipif(not X86, reason="no other compiler for this machine, or it is not x86 (Debian has clang)")
@pytest.mark.parametrize("compiler", X86)
@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_inner_loops_on_x86_keep_their_sums_in_registers(
    isa: str, compiler: str, building: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sum that waits in memory makes each step wait for it."""
    source = tmp_path / "kernels.cpp"
    source.write_text(KERNELS)
    flags = steps(compiler, building, tmp_path, monkeypatch)["csrc/cpu/isa/pair_score.cpp"]
    machine, width = building.instruction_sets.VARIANTS[isa]
    kept = [x for x in flags if not re.match(r"-m|-DCMSEI_(ISA|VECTOR)|-fvisibility", x)]
    own = [*machine, f"-DCMSEI_ISA={isa}", f"-DCMSEI_VECTOR_BYTES={width}"]
    command = [*shlex.split(compiler), *kept, *own, "-I.", "-S", str(source), "-o", "-"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    whole = [loop for loop in loops(done.stdout) if sum(line.startswith("vfmadd") for line in loop) >= 48]
    assert len(whole) >= 3  # a product, and both of a Gram matrix
    for loop in whole:
        products = sum(line.startswith("vfmadd") for line in loop)
        assert sum(bool(re.search(r"[yz]mm.*\(%rsp\)|\(%rsp\).*[yz]mm", line)) for line in loop) <= products // 16
