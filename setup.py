"""Builds the compiled modules with pybind11 and ninja; what they are is in pyproject.toml, how they are built is here.

Environment: CMSEI_NATIVE and CMSEI_CUDA (0: leave out, 1: must be built, auto: build if possible), CMSEI_CUDA_ARCHS
("80;90a"), CUDA_HOME, CXX, CXXFLAGS, LDFLAGS.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
PACKAGE = "cmsei_fast"
REPORT = "build_report.json"
DEFAULT_ARCHS = ("80", "90a")

_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", *_AVX2)
# Instruction set -> (compiler flags, bytes of a vector). Each file of csrc/cpu/isa is compiled once for each.
VARIANTS: dict[str, tuple[tuple[str, ...], int]] = {
    "baseline": ((), 16),
    "avx2": (_AVX2, 32),
    "avx512": (_AVX512, 64),
    "avx512bf16": ((*_AVX512, "-mavx512bf16"), 64),
    "avx512amx": ((*_AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"), 64),
}
# The same of csrc/cpu/int8, whose products are added to those of an instruction set as wide.
PRODUCTS: dict[str, tuple[tuple[str, ...], int]] = {
    "avxvnni": ((*_AVX2, "-mavxvnni"), 32),
    "avx512vnni": ((*_AVX512, "-mavx512vnni"), 64),
    "amxint8": ((*_AVX512, "-mamx-tile", "-mamx-int8"), 64),
}
PROBE = """
typedef float V __attribute__((vector_size(64)));
void f(V* a, V* b) { *a = *a * *b + *a; }
#if defined(__AMX_BF16__)
#include <immintrin.h>
void g() { _tile_dpbf16ps(0, 1, 2); }
#elif defined(__AMX_INT8__)
#include <immintrin.h>
void g() { _tile_dpbssd(0, 1, 2); }
#endif
#if defined(__AVXVNNI__) || defined(__AVX512VNNI__)
#include <immintrin.h>
int h() { return __builtin_cpu_supports("avxvnni") + __builtin_cpu_supports("avx512vnni"); }
#endif
"""


class BuildError(RuntimeError):
    """A module that was asked for cannot be built; the message says why and what to do."""


def wish(name: str, environ: Mapping[str, str]) -> str:
    """The value of CMSEI_NATIVE or CMSEI_CUDA: "0", "1" or "auto" (the default)."""
    value = environ.get(name, "").strip().lower() or "auto"
    if value not in ("0", "1", "auto"):
        raise BuildError(f"{name}: expected 0, 1 or auto, got {environ[name]!r}")
    return value


def parse_archs(text: str) -> list[str]:
    """GPU architectures as nvcc numbers, lowest first: "8.0;90a" -> ["80", "90a"].

    Of 90 and 90a only the latter: both run on the same GPUs, which might take the one without the Hopper kernel.
    """
    archs: set[str] = set()
    for item in re.split(r"[;,\s]+", text.strip()):
        match = re.fullmatch(r"(?:sm_)?(\d{1,2})\.?(\d)([af]?)", item)
        if match is None:
            raise BuildError(f"CMSEI_CUDA_ARCHS: expected numbers such as 80;90a, got {text!r}")
        archs.add("".join(match.groups()))
    if "90a" in archs:
        archs.discard("90")
    return sorted(archs, key=lambda arch: (base_arch(arch), arch))


def base_arch(arch: str) -> int:
    """The number of an architecture without its letter: "90a" -> 90."""
    return int(arch.rstrip("af"))


def gencode_flags(archs: list[str]) -> list[str]:
    """nvcc flags: machine code for each architecture, and PTX of the highest for the GPUs to come.

    The PTX is that of the plain architecture: what is compiled for 90a runs on 90 alone.
    """
    flags = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    newest = max(base_arch(arch) for arch in archs)
    return [*flags, f"-gencode=arch=compute_{newest},code=compute_{newest}"]


def output_of(*command: str) -> str | None:
    """What a command printed; None if it is missing or failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def find_compiler(environ: Mapping[str, str]) -> list[str] | None:
    """The C++ compiler's command: $CXX, else the first of c++, g++, clang++ that there is."""
    for candidate in [environ["CXX"]] if environ.get("CXX") else ["c++", "g++", "clang++"]:
        command = shlex.split(candidate)
        if shutil.which(command[0]):
            return command
    return None


def find_nvcc(environ: Mapping[str, str]) -> str | None:
    """nvcc of $CUDA_HOME or $CUDA_PATH, of $PATH, or of the usual place."""
    homes = [environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if environ.get(name)]
    for home in homes:
        if found := shutil.which("nvcc", path=os.path.join(home, "bin")):
            return found
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def present_archs() -> list[str]:
    """Architectures of the GPUs in this machine; empty without one."""
    listed = output_of("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader") or ""
    archs = {line.strip().replace(".", "") for line in listed.splitlines() if re.fullmatch(r"\d+\.\d", line.strip())}
    # From 9.0 on, the letter unlocks the instructions that only this generation has.
    return sorted((arch + "a" if int(arch) >= 90 else arch for arch in archs), key=base_arch)


def choose_archs(environ: Mapping[str, str], nvcc: str) -> list[str]:
    """$CMSEI_CUDA_ARCHS, else the GPUs present, else the default; of the latter two, those that nvcc knows."""
    if environ.get("CMSEI_CUDA_ARCHS", "").strip():
        return parse_archs(environ["CMSEI_CUDA_ARCHS"])
    wanted = present_archs() or list(DEFAULT_ARCHS)
    known = output_of(nvcc, "--list-gpu-code")
    archs = [arch for arch in wanted if known is None or f"sm_{base_arch(arch)}" in known.split()]
    if not archs:
        raise BuildError(f"{nvcc} knows none of the architectures {';'.join(wanted)}: set CMSEI_CUDA_ARCHS")
    return archs


def x86() -> bool:
    """Whether this machine has the instruction sets of ``VARIANTS``; any other has the baseline alone."""
    return platform.machine().lower() in ("x86_64", "amd64")


def supported_variants(
    compiler: list[str], directory: Path, variants: Mapping[str, tuple[tuple[str, ...], int]]
) -> tuple[list[str], dict[str, str]]:
    """The instruction sets to build, and of those left out, why."""
    if not x86():
        return [name for name, (flags, _) in variants.items() if not flags], {}
    # A product of vectors, or of tiles, makes the assembler, not only the compiler, take the instructions.
    probe = directory / "probe.cpp"
    probe.write_text(PROBE)
    built, left_out = [], {}
    for name, (flags, _) in variants.items():
        if not flags or output_of(*compiler, *flags, "-O1", "-c", str(probe), "-o", os.devnull) is not None:
            built.append(name)
        else:
            left_out[name] = f"{compiler[0]} does not take {' '.join(flags)}"
    return built, left_out


def stable_pybind11(directory: Path) -> Path:
    """pybind11's headers, copied into the build folder.

    An isolated build has them under another name each time, which would make every build a full one.
    """
    import pybind11

    to = directory / f"pybind11-{pybind11.__version__}"
    if not to.is_dir():
        part = directory / f"pybind11-{pybind11.__version__}.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(pybind11.get_include(), part)
        part.rename(to)
    return to


def write_if_changed(path: Path, text: str) -> None:
    """Writes a file, keeping its time stamp if it already says the same."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def ninja_command() -> list[str]:
    """The ninja of the build environment, else of the system."""
    try:
        import ninja

        bundled = os.path.join(ninja.BIN_DIR, "ninja")
        if os.path.exists(bundled):
            return [bundled]
    except ImportError:
        pass
    if found := shutil.which("ninja"):
        return [found]
    raise BuildError("ninja is missing: pip install ninja")


@dataclass
class Plan:
    """A build.ninja in the making. Paths are relative to the source tree; commands are run there."""

    directory: str
    lines: list[str] = field(default_factory=lambda: ["ninja_required_version = 1.5"])

    @staticmethod
    def quoted(*words: str) -> str:
        """Words of a shell command, as ninja reads them in a variable."""
        return " ".join(shlex.quote(word) for word in words).replace("$", "$$")

    @staticmethod
    def path(name: str) -> str:
        """A path, as ninja reads it in a build line."""
        return re.sub(r"([$ :])", r"$\1", name)

    def rule(self, name: str, command: str, description: str, depfile: bool = False) -> None:
        """Adds a rule; with a depfile, a step runs again when a header that its source includes has changed."""
        self.lines += [f"rule {name}", f"  command = {command}", f"  description = {description} $out"]
        if depfile:
            self.lines += ["  depfile = $out.d", "  deps = gcc"]

    def step(self, rule: str, out: str, sources: list[str], implicit: list[str], flags: list[str] | None = None) -> str:
        """Adds the step that makes ``out`` of its sources, again when one of ``implicit`` has changed; returns it."""
        after = " | " + " ".join(map(self.path, implicit)) if implicit else ""
        self.lines.append(f"build {self.path(out)}: {rule} {' '.join(map(self.path, sources))}{after}")
        if flags is not None:
            self.lines.append(f"  flags = {self.quoted(*flags)}")
        return out

    def text(self) -> str:
        """The whole build.ninja."""
        return "\n".join([*self.lines, f"builddir = {self.path(self.directory)}", ""])


def python_includes(pybind11: str) -> list[str]:
    """Flags for the headers of Python and of pybind11, which lie in that folder."""
    paths = dict.fromkeys([sysconfig.get_path("include"), sysconfig.get_path("platinclude")])
    return [flag for path in (pybind11, *paths) for flag in ("-isystem", path)]


def plan_native(plan: Plan, compiler: list[str], includes: list[str], variants: list[str], products: list[str]) -> str:
    """Steps of the CPU module; returns its path."""
    known = VARIANTS | PRODUCTS
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
    if x86():
        portable.append("-DCMSEI_HAVE_X86_VARIANTS=1")
        portable += [f"-DCMSEI_NO_{name.upper()}" for name in known if name not in [*variants, *products]]
    extra = shlex.split(os.environ.get("CXXFLAGS", ""))
    link = ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]
    after = ["-pthread", *(["-ldl"] if sys.platform == "linux" else []), *shlex.split(os.environ.get("LDFLAGS", ""))]
    plan.rule("link", f"{plan.quoted(*compiler, *link)} $in -o $out {plan.quoted(*after)}", "link")
    objects = []
    for source in ["csrc/bindings.cpp", *sources("csrc/cpu/*.cpp")]:
        flags = [*portable, *includes, *extra]
        objects.append(plan.step("cxx", f"{plan.directory}/native/{Path(source).stem}.o", [source], toolchain, flags))
    compiled = [("csrc/cpu/isa/*.cpp", variants), ("csrc/cpu/int8/*.cpp", products)]
    for source, names in [(source, names) for folder, names in compiled for source in sources(folder)]:
        for name in names:
            machine, width = known[name]
            # On cache lines: the inner loops' speed (5 % of a product) does not hang on what else the object holds.
            flags = [*portable, *extra, "-ffp-contract=fast", "-falign-functions=64", *machine]
            flags += [f"-DCMSEI_ISA={name}", f"-DCMSEI_VECTOR_BYTES={width}"]
            out = f"{plan.directory}/isa/{name}/{Path(source).stem}.o"
            objects.append(plan.step("cxx", out, [source], toolchain, flags))
    return plan.step("link", f"{plan.directory}/_native{sysconfig.get_config_var('EXT_SUFFIX')}", objects, [])


def plan_cuda(plan: Plan, nvcc: str, includes: list[str], archs: list[str], version: str) -> str:
    """Steps of the CUDA module; returns its path. What ptxas reports of each kernel is kept beside its object."""
    toolchain = [f"{plan.directory}/{tool}.txt" for tool in ("cxx", "nvcc")]
    host = ["-ccbin", os.environ["CXX"]] if os.environ.get("CXX") else []
    tool = plan.quoted(nvcc, *host)
    plan.rule(
        "nvcc",
        f"{tool} -MMD -MF $out.d $flags -c $in -o $out > $out.ptxas.txt 2>&1 || {{ cat $out.ptxas.txt; exit 1; }}",
        "nvcc",
        depfile=True,
    )
    hidden = "" if sys.platform == "darwin" else "-Xlinker --exclude-libs -Xlinker ALL"
    plan.rule("nvlink", f"{tool} -shared --cudart static {hidden} $in -o $out", "link")
    device = ["-O3", "-std=c++17", "-t", "2", "-Xcompiler", "-fPIC,-fvisibility=hidden", "-Xptxas", "-v"]
    device += ["-Icsrc/include", *gencode_flags(archs)]
    objects = [
        plan.step("nvcc", f"{plan.directory}/cuda/{Path(source).stem}.o", [source], toolchain, device)
        for source in sources("csrc/cuda/*.cu")
    ]
    flags = ["-O2", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Icsrc/include", *includes]
    flags += [f'-DCMSEI_CUDA_ARCHS="{";".join(archs)}"', f'-DCMSEI_VERSION="{version}"']
    objects.append(plan.step("cxx", f"{plan.directory}/cuda/bindings.o", ["csrc/cuda/bindings.cpp"], toolchain, flags))
    return plan.step("nvlink", f"{plan.directory}/_cuda{sysconfig.get_config_var('EXT_SUFFIX')}", objects, [])


def sources(pattern: str) -> list[str]:
    """Paths from the root of the files that match, always in one order."""
    return sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern))


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
    """Compiles what can be compiled and raises where a module that must be there cannot."""
    wishes = {"native": wish("CMSEI_NATIVE", os.environ), "cuda": wish("CMSEI_CUDA", os.environ)}
    outcomes = {name: Outcome() for name in wishes}
    for name, value in wishes.items():
        if value == "0":
            outcomes[name].reason = f"left out by CMSEI_{name.upper()}=0"
    compiler = find_compiler(os.environ)
    nvcc = find_nvcc(os.environ)
    if compiler is None:
        for outcome in outcomes.values():
            outcome.reason = outcome.reason or "no C++ compiler was found (set CXX, or install g++ or clang++)"
    elif nvcc is None:
        outcomes["cuda"].reason = outcomes["cuda"].reason or "nvcc was not found (set CUDA_HOME)"
    if compiler is not None and any(outcome.reason is None for outcome in outcomes.values()):
        compile_all(outcomes, compiler, nvcc, version)
    for name, outcome in outcomes.items():
        if outcome.path is None and wishes[name] == "1":
            raise BuildError(f"CMSEI_{name.upper()}=1, but {PACKAGE}._{name} was not built: {outcome.reason}")
        if outcome.path is None:
            print(f"warning: {PACKAGE}._{name} was not built: {outcome.reason}", file=sys.stderr)
    return outcomes


def start_plan(directory: str, compiler: list[str], nvcc: str | None) -> tuple[Plan, list[str]]:
    """An empty plan whose products go to ``directory``, and the include flags of what binds to Python."""
    folder = ROOT / directory
    folder.mkdir(parents=True, exist_ok=True)
    # Steps depend on these files, so that another compiler compiles anew.
    write_if_changed(folder / "cxx.txt", output_of(*compiler, "--version") or "")
    write_if_changed(folder / "nvcc.txt", (nvcc and output_of(nvcc, "--version")) or "")
    plan = Plan(directory)
    plan.rule("cxx", f"{plan.quoted(*compiler)} -MMD -MF $out.d $flags -c $in -o $out", "compile", depfile=True)
    return plan, python_includes(f"{directory}/{stable_pybind11(folder).name}")


def ninja_run(plan: Plan) -> list[str]:
    """Writes the plan down; the command that carries it out from the root of the source tree."""
    write_if_changed(ROOT / plan.directory / "build.ninja", plan.text())
    return [*ninja_command(), "-f", f"{plan.directory}/build.ninja"]


def native_module(directory: str, variants: list[str], products: list[str]) -> str:
    """Builds the CPU module alone, with these of both lists, in a folder of its own; its path from the root."""
    compiler = find_compiler(os.environ)
    if compiler is None:
        raise BuildError("no C++ compiler was found")
    plan, includes = start_plan(directory, compiler, None)
    target = plan_native(plan, compiler, includes, variants, products)
    subprocess.run([*ninja_run(plan), target], cwd=ROOT, check=True)
    return target


def compile_all(outcomes: dict[str, Outcome], compiler: list[str], nvcc: str | None, version: str) -> None:
    """Plans and runs one ninja build of the modules without a reason against them; fills in the outcomes."""
    directory = f"build/{PACKAGE}-{sys.implementation.cache_tag}-{sysconfig.get_platform()}"
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
        variants, left_out = supported_variants(compiler, ROOT / directory, VARIANTS)
        products, also = supported_variants(compiler, ROOT / directory, PRODUCTS)
        targets["native"] = plan_native(plan, compiler, includes, variants, products)
        outcomes["native"].details = {"variants": variants, "products": products, "left_out": left_out | also}
    run = ninja_run(plan)
    everything = subprocess.run([*run, "-k", "0", *targets.values()], cwd=ROOT)
    for name, target in targets.items():
        if everything.returncode:
            alone = subprocess.run(
                [*run, target], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            if alone.returncode:
                outcomes[name].reason = "its compilation failed:\n" + "\n".join(alone.stdout.splitlines()[-20:])
                continue
        outcomes[name].path = target


class NinjaBuild(build_ext):
    """build_ext whose compilation is ninja's; a module that cannot be built is left out and the report says why."""

    def run(self) -> None:
        """Notes whether the modules go beside the sources, which setuptools' own hides while it builds."""
        self.beside_sources = bool(self.inplace)
        super().run()

    def build_extensions(self) -> None:
        """Builds what can be built, puts it where Python finds it, and writes the report beside the package."""
        outcomes = build_modules(self.distribution.get_version())
        package = ROOT / PACKAGE if self.beside_sources else Path(self.build_lib) / PACKAGE
        package.mkdir(parents=True, exist_ok=True)
        for extension in self.extensions:
            outcome = outcomes[extension.name.rpartition("_")[2]]
            target = Path(self.get_ext_fullpath(extension.name))
            if outcome.path is None:
                # One of an earlier build would be loaded though the report says that there is none.
                for stale in {target.resolve(), (package / target.name).resolve()}:
                    if stale.exists():
                        stale.unlink()
                        print(f"warning: removed {stale}, of an earlier build", file=sys.stderr)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            # Replaced, not overwritten: a process that has the old module mapped keeps it.
            target.unlink(missing_ok=True)
            self.copy_file(str(ROOT / outcome.path), str(target))
        report = {name: outcome.report() for name, outcome in outcomes.items()}
        (package / REPORT).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    setup(
        packages=[*find_packages(include=[PACKAGE, f"{PACKAGE}.*"]), f"{PACKAGE}.kernels"],
        # `kernels` alone is the name of another package: the folder is imported as cmsei_fast.kernels only.
        package_dir={PACKAGE: PACKAGE, f"{PACKAGE}.kernels": "kernels"},
        ext_modules=[Extension(f"{PACKAGE}.{name}", sources=[], optional=True) for name in ("_native", "_cuda")],
        cmdclass={"build_ext": NinjaBuild},
    )
