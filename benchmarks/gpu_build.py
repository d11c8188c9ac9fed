"""Builds the compiled modules on a machine with a GPU and no network, or takes those of an earlier run."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import time
import zipfile
from pathlib import Path

from benchmarks import gpu_process
from benchmarks.gpu_results import fingerprint
from benchmarks.pages import ROOT

_SOURCES = ("csrc/**/*.cu", "csrc/**/*.cuh", "csrc/**/*.h", "csrc/**/*.cpp", "csrc/building/*.py")
_BUILT = "import cmsei_fast._native as a, cmsei_fast._cuda as b, cmsei_fast.kernels; print(a.__file__, b.__file__)"
# Without pip, or where it may not write: the modules beside the sources.
_BESIDE = """
import shutil, sys
sys.path.insert(0, "csrc")
from building.modules import build_modules
from cmsei_fast.version import __version__
for name, outcome in build_modules(__version__).items():
    if outcome.path is not None:
        shutil.copy(outcome.path, "cmsei_fast")
    print(name, outcome.reason or "built")
"""


def architecture() -> str | None:
    """The GPU's, as the build takes it: from 9.0 on with the instructions that it alone has."""
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return f"{major}{minor}{'a' if major >= 9 else ''}"


def build(limit: float, kept: Path | None = None) -> str:
    """Puts both modules where they are imported from; says how, or that it failed and why.

    They are built for this GPU alone and with places in the source, which the sanitizer and the debugger name. The
    archive ``kept`` holds them for a run on a machine that has nothing: it takes them from there, or from an archive of
    that name at the top of the source tree, if they are of the same sources, Python and GPU.
    """
    start = time.perf_counter()
    own = architecture()
    name = f"{fingerprint(_SOURCES)} {sysconfig.get_config_var('EXT_SUFFIX')} {own}"
    for archive in () if kept is None else (kept, ROOT / kept.name):
        if _taken(archive, name):
            if kept is not None and not (kept.exists() and archive.samefile(kept)):
                shutil.copy(archive, kept)
            return f"taken from {archive}"
    variables = {"NVCC_APPEND_FLAGS": f"{os.environ.get('NVCC_APPEND_FLAGS', '')} -lineinfo".strip()}
    if own is not None and not os.environ.get("CMSEI_CUDA_ARCHS"):
        variables["CMSEI_CUDA_ARCHS"] = own
    pip = ["-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation", "-e", "."]
    tried = []
    # What compiles too long for the one does so for the other: only what fails at once leaves time.
    for arguments, most in ((pip, 0.9 * limit), (["-c", _BESIDE], limit)):
        left = start + limit - time.perf_counter()
        done = gpu_process.run([sys.executable, *arguments], min(most, left), variables)
        if arguments is not pip:
            _link_kernels()
        there = gpu_process.run([sys.executable, "-c", _BUILT], 60)
        if there.code == 0:
            if kept is not None:
                _keep(kept, name, there.text.split())
            return f"built in {time.perf_counter() - start:.0f} s"
        tried.append(f"{done.why}\n{done.text[-1500:]}\n{there.text[-500:]}")
    return "failed: " + "\n".join(tried)


def _link_kernels() -> None:
    """Without an installation, the kernels are imported from beside the package."""
    kernels = ROOT / "cmsei_fast" / "kernels"
    if not kernels.exists():
        kernels.symlink_to("../kernels")


def _keep(archive: Path, name: str, modules: list[str]) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        out.comment = name.encode()
        for module in modules:
            out.write(module, Path(module).name)


def _taken(archive: Path, name: str) -> bool:
    """Whether the archive is of that name and its modules, put beside the sources, can be imported."""
    try:
        with zipfile.ZipFile(archive) as found:
            if found.comment != name.encode():
                return False
            found.extractall(ROOT / "cmsei_fast")
    except (OSError, zipfile.BadZipFile):
        return False
    if gpu_process.run([sys.executable, "-c", _BUILT], 60).code != 0:
        _link_kernels()
    return gpu_process.run([sys.executable, "-c", _BUILT], 60).code == 0
