"""Builds both modules in one run of ninja, and says what became of each."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field

from . import tools, tree
from .architectures import choose_archs
from .cuda import plan_cuda
from .errors import BuildError
from .instruction_sets import PRODUCTS, VARIANTS, supported_variants
from .native import plan_native
from .plan import ninja_run, start_plan
from .switches import switch


@dataclass
class Outcome:
    """What became of one module: its path, or why there is none."""

    path: str | None = None
    reason: str | None = None
    details: dict[str, object] = field(default_factory=dict)

    def report(self) -> dict[str, object]:
        """As the build's report has it."""
        return {"built": self.path is not None, "reason": self.reason, **self.details}


def build_modules(version: str) -> dict[str, Outcome]:
    """Compiles what can be compiled.

    Raises:
        BuildError: if a module that the environment demands cannot be built.
    """
    switches = {"native": switch("CMSEI_NATIVE", os.environ), "cuda": switch("CMSEI_CUDA", os.environ)}
    outcomes = {name: Outcome() for name in switches}
    for name, value in switches.items():
        if value == "0":
            outcomes[name].reason = f"left out by CMSEI_{name.upper()}=0"
    compiler = tools.find_compiler(os.environ)
    nvcc = tools.find_nvcc(os.environ)
    if compiler is None:
        asked = tools.asked_compiler(os.environ)
        way = f"CXX is {os.environ['CXX']!r}" if asked else "set CXX, or install g++ or clang++"
        for outcome in outcomes.values():
            outcome.reason = outcome.reason or f"no C++ compiler was found ({way})"
    elif nvcc is None:
        outcomes["cuda"].reason = outcomes["cuda"].reason or "nvcc was not found (set CUDA_HOME)"
    if compiler is not None and any(outcome.reason is None for outcome in outcomes.values()):
        directory = f"build/{tree.PACKAGE}-{sys.implementation.cache_tag}-{sysconfig.get_platform()}"
        with tree.alone_in(tree.ROOT / directory):
            compile_all(outcomes, directory, compiler, nvcc, version)
    for name, outcome in outcomes.items():
        if outcome.path is None and switches[name] == "1":
            raise BuildError(f"CMSEI_{name.upper()}=1, but {tree.PACKAGE}._{name} was not built: {outcome.reason}")
        if outcome.path is None:
            print(f"warning: {tree.PACKAGE}._{name} was not built: {outcome.reason}", file=sys.stderr)
    return outcomes


def compile_all(
    outcomes: dict[str, Outcome], directory: str, compiler: list[str], nvcc: str | None, version: str
) -> None:
    """Plans and runs one ninja build of the modules without a reason against them; fills in the outcomes."""
    plan, includes = start_plan(directory, compiler, nvcc)
    targets = {}
    # First, because nvcc takes longest: the other compilations fit beside it.
    if outcomes["cuda"].reason is None and nvcc is not None:
        try:
            archs = choose_archs(os.environ, nvcc)
            targets["cuda"] = plan_cuda(plan, nvcc, includes, archs, version)
            outcomes["cuda"].details = {"architectures": archs}
        except BuildError as error:
            outcomes["cuda"].reason = str(error)
    if outcomes["native"].reason is None:
        variants, left_out = supported_variants(compiler, tree.ROOT / directory, VARIANTS)
        products, also = supported_variants(compiler, tree.ROOT / directory, PRODUCTS)
        targets["native"] = plan_native(plan, compiler, includes, variants, products)
        outcomes["native"].details = {"variants": variants, "products": products, "left_out": left_out | also}
    run = ninja_run(plan)
    everything = subprocess.run([*run, "-k", "0", *targets.values()], cwd=tree.ROOT)
    for name, target in targets.items():
        if everything.returncode:
            alone = subprocess.run(
                [*run, target], cwd=tree.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            if alone.returncode:
                outcomes[name].reason = "its compilation failed:\n" + "\n".join(alone.stdout.splitlines()[-20:])
                continue
        outcomes[name].path = target
