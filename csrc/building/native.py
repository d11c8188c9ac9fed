"""The CPU module."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

from . import instruction_sets, tools, tree
from .errors import BuildError
from .plan import Plan, ninja_run, start_plan


def plan_native(plan: Plan, compiler: list[str], includes: list[str], variants: list[str], products: list[str]) -> str:
    """Steps of the CPU module; returns its path."""
    known = {
        "csrc/cpu/isa": instruction_sets.VARIANTS,
        "csrc/cpu/bf16": instruction_sets.BFLOAT16,
        "csrc/cpu/int8": instruction_sets.INT8,
    }
    built = [*variants, *products]
    toolchain = [f"{plan.directory}/cxx.txt"]
    portable = [
        "-O3",
        "-std=c++17",
        "-fPIC",
        "-fvisibility=hidden",
        "-fno-math-errno",
        "-pthread",
        "-Wall",
        "-Wextra",
        "-Wno-psabi",
    ]
    portable += ["-Icsrc/include"]
    if instruction_sets.x86():
        portable.append("-DCMSEI_HAVE_X86_VARIANTS=1")
        portable += [f"-DCMSEI_NO_{name.upper()}" for sets in known.values() for name in sets if name not in built]
    extra = shlex.split(os.environ.get("CXXFLAGS", ""))
    link = ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]
    after = ["-pthread", *(["-ldl"] if sys.platform == "linux" else []), *shlex.split(os.environ.get("LDFLAGS", ""))]
    plan.rule("link", f"{plan.quoted(*compiler, *link)} $in -o $out {plan.quoted(*after)}", "link")
    objects = []
    for source in ["csrc/bindings.cpp", *tree.sources("csrc/cpu/*.cpp")]:
        flags = [*portable, *includes, *extra]
        objects.append(plan.step("cxx", f"{plan.directory}/native/{Path(source).stem}.o", [source], toolchain, flags))
    # A pair's score is the same in any tile, so which products become multiply-adds must not hang on what a formula is
    # inlined into. Clang's "fast" chooses by how often a product is read; its "on" goes by the expression alone.
    contract = "-ffp-contract=on" if tools.is_clang(compiler) else "-ffp-contract=fast"
    for source, sets in [
        (source, sets) for folder, sets in known.items() for source in tree.sources(f"{folder}/*.cpp")
    ]:
        for name in (name for name in sets if name in built):
            machine, width = sets[name]
            # On cache lines: the inner loops' speed (5 % of a product) does not hang on what else the object holds.
            flags = [*portable, *extra, contract, "-falign-functions=64", *machine]
            flags += [f"-DCMSEI_ISA={name}", f"-DCMSEI_VECTOR_BYTES={width}"]
            out = f"{plan.directory}/isa/{name}/{Path(source).stem}.o"
            objects.append(plan.step("cxx", out, [source], toolchain, flags))
    return plan.step("link", f"{plan.directory}/_native{sysconfig.get_config_var('EXT_SUFFIX')}", objects, [])


def native_module(directory: str, variants: list[str], products: list[str]) -> str:
    """Builds the CPU module alone, with these of both lists, in a folder of its own; its path from the root."""
    compiler = tools.find_compiler(os.environ)
    if compiler is None:
        raise BuildError("no C++ compiler was found")
    with tree.alone_in(tree.ROOT / directory):
        plan, includes = start_plan(directory, compiler, None)
        target = plan_native(plan, compiler, includes, variants, products)
        subprocess.run([*ninja_run(plan), target], cwd=tree.ROOT, check=True)
    return target
