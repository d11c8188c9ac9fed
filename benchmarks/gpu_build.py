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
# If there is no pip, or it may not write, the modules are put beside the sources.
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
    """The GPU's architecture as the build takes it: from 9.0 on with the instructions of that GPU alone."""
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return f"{major}{minor}{'a' if major >= 9 else ''}"


def build(limit: float, cache: Path | None = None) -> str:
    """Puts both modules where they are imported from; returns how it was done, or why it failed.

    They are built for this GPU alone, with line numbers for the sanitizer and the debugger. The archive ``cache`` holds
    them for a later run on another machine: it takes them from there, or from an archive of that name at the top of the
    source tree, if sources, Python and GPU are the same.
    """
    start = time.perf_counter()
    gpu = architecture()
    archive_name = f"{fingerprint(_SOURCES)} {sysconfig.get_config_var('EXT_SUFFIX')} {gpu}"
    for archive in () if cache is None else (cache, ROOT / cache.name):
        if _unpack(archive, archive_name):
            if cache is not None and not (cache.exists() and archive.samefile(cache)):
                shutil.copy(archive, cache)
            return f"taken from {archive}"
    variables = {"NVCC_APPEND_FLAGS": f"{os.environ.get('NVCC_APPEND_FLAGS', '')} -lineinfo".strip()}
    if gpu is not None and not os.environ.get("CMSEI_CUDA_ARCHS"):
        variables["CMSEI_CUDA_ARCHS"] = gpu
    pip = ["-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation", "-e", "."]
    failures = []
    # Compiling takes equally long both ways, so the second has time only if the first fails at once.
    for arguments, most_seconds in ((pip, 0.9 * limit), (["-c", _BESIDE], limit)):
        seconds_left = start + limit - time.perf_counter()
        built = gpu_process.run([sys.executable, *arguments], min(most_seconds, seconds_left), variables)
        if arguments is not pip:
            _link_kernels()
        imported = gpu_process.run([sys.executable, "-c", _BUILT], 60)
        if imported.code == 0:
            if cache is not None:
                _pack(cache, archive_name, imported.text.split())
            return f"built in {time.perf_counter() - start:.0f} s"
        failures.append(f"{built.why}\n{built.text[-1500:]}\n{imported.text[-500:]}")
    return "failed: " + "\n".join(failures)


def _link_kernels() -> None:
    """Links the kernels into the package, where they are imported from without an installation."""
    kernels = ROOT / "cmsei_fast" / "kernels"
    if not kernels.exists():
        kernels.symlink_to("../kernels")


def _pack(archive: Path, archive_name: str, modules: list[str]) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zip_file:
        zip_file.comment = archive_name.encode()
        for module in modules:
            zip_file.write(module, Path(module).name)


def _unpack(archive: Path, archive_name: str) -> bool:
    """Puts the archive's modules beside the sources; True if it has that name and they can be imported."""
    try:
        with zipfile.ZipFile(archive) as zip_file:
            if zip_file.comment != archive_name.encode():
                return False
            zip_file.extractall(ROOT / "cmsei_fast")
    except (OSError, zipfile.BadZipFile):
        return False
    if gpu_process.run([sys.executable, "-c", _BUILT], 60).code != 0:
        _link_kernels()
    return gpu_process.run([sys.executable, "-c", _BUILT], 60).code == 0
