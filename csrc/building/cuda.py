"""The CUDA module."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

from . import tools, tree
from .architectures import archs_for, gencode_flags
from .plan import Plan


def plan_cuda(plan: Plan, nvcc: str, includes: list[str], archs: list[str], version: str) -> str:
    """Steps of the CUDA module; returns its path. What ptxas reports of each kernel is kept beside its object."""
    toolchain = [f"{plan.directory}/{tool}.txt" for tool in ("cxx", "nvcc")]
    own = tools.asked_compiler(os.environ)
    tool = plan.quoted(nvcc, *(tools.host_compiler(own) if own else []))
    plan.rule(
        "nvcc",
        f"{tool} -MMD -MF $out.d $flags -c $in -o $out > $out.ptxas.txt 2>&1 || {{ cat $out.ptxas.txt; exit 1; }}",
        "nvcc",
        depfile=True,
    )
    hidden = "" if sys.platform == "darwin" else "-Xlinker --exclude-libs -Xlinker ALL"
    plan.rule("nvlink", f"{tool} -shared --cudart static {hidden} $in -o $out", "link")
    device = ["-O3", "-std=c++17", "-t", "2", "-Xcompiler", "-fPIC,-fvisibility=hidden", "-Xptxas", "-v"]
    device += ["-Icsrc/include"]
    objects = []
    for source in tree.sources("csrc/cuda/*.cu"):
        flags = [*device, *gencode_flags(archs_for(source, archs))]
        objects.append(plan.step("nvcc", f"{plan.directory}/cuda/{Path(source).stem}.o", [source], toolchain, flags))
    flags = ["-O2", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Icsrc/include", *includes]
    flags += [f'-DCMSEI_CUDA_ARCHS="{";".join(archs)}"', f'-DCMSEI_VERSION="{version}"']
    objects.append(plan.step("cxx", f"{plan.directory}/cuda/bindings.o", ["csrc/cuda/bindings.cpp"], toolchain, flags))
    return plan.step("nvlink", f"{plan.directory}/_cuda{sysconfig.get_config_var('EXT_SUFFIX')}", objects, [])
