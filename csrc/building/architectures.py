"""The architectures of GPUs that the CUDA module is compiled for."""

from __future__ import annotations

import re
from collections.abc import Mapping

from . import tools
from .errors import BuildError

HOPPER = "90a"
DEFAULT_ARCHS = ("80", HOPPER)


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
    if HOPPER in archs:
        archs.discard("90")
    return sorted(archs, key=lambda arch: (base_arch(arch), arch))


def base_arch(arch: str) -> int:
    """The number of an architecture without its letter: "90a" -> 90."""
    return int(arch.rstrip("af"))


def gencode_flags(archs: list[str]) -> list[str]:
    """nvcc flags: machine code for each architecture, and PTX of one for the GPUs to come.

    The PTX is that of the highest architecture without a letter, which nvcc makes on the way to its machine code:
    another would take a compilation more. Where all have one it is of the highest, without the letter: what is compiled
    for 90a runs on 90 alone.
    """
    flags = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    ptx = max(map(base_arch, [arch for arch in archs if arch.isdigit()] or archs))
    return [*flags, f"-gencode=arch=compute_{ptx},code=compute_{ptx}"]


def archs_for(source: str, archs: list[str]) -> list[str]:
    """Those of `archs` that a source is compiled for.

    The kernel by mma.sync takes a minute for each, and none of the GPUs that have the Hopper kernel asks for it.
    """
    others = [arch for arch in archs if arch != HOPPER]
    return others if others and source.endswith("/ampere_scores.cu") else archs


def present_archs() -> list[str]:
    """Architectures of the GPUs in this machine; empty without one."""
    listed = tools.output_of("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader") or ""
    archs = {line.strip().replace(".", "") for line in listed.splitlines() if re.fullmatch(r"\d+\.\d", line.strip())}
    # From 9.0 on, the letter unlocks the instructions that only this generation has.
    return sorted((arch + "a" if int(arch) >= 90 else arch for arch in archs), key=base_arch)


def choose_archs(environ: Mapping[str, str], nvcc: str) -> list[str]:
    """$CMSEI_CUDA_ARCHS, else the GPUs present, else the default; of the latter two, those that nvcc knows."""
    if environ.get("CMSEI_CUDA_ARCHS", "").strip():
        return parse_archs(environ["CMSEI_CUDA_ARCHS"])
    wanted = present_archs() or list(DEFAULT_ARCHS)
    known = tools.output_of(nvcc, "--list-gpu-code")
    archs = [arch for arch in wanted if known is None or f"sm_{base_arch(arch)}" in known.split()]
    if not archs:
        raise BuildError(f"{nvcc} knows none of the architectures {';'.join(wanted)}: set CMSEI_CUDA_ARCHS")
    return archs
