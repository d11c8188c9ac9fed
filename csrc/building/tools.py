"""The programs that a build runs: the C++ compiler, nvcc, ninja."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from itertools import dropwhile

from .errors import BuildError


def output_of(*command: str) -> str | None:
    """What a command printed; None if it is missing or failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def find_compiler(environ: Mapping[str, str]) -> list[str] | None:
    """The C++ compiler's command: $CXX, else the first of c++, g++, clang++ that there is."""
    own = asked_compiler(environ)
    for command in [own] if own else [["c++"], ["g++"], ["clang++"]]:
        if shutil.which(command[0]):
            return command
    return None


def asked_compiler(environ: Mapping[str, str]) -> list[str]:
    """The words of $CXX, which may be blank.

    Raises:
        BuildError: for quotes that do not close.
    """
    try:
        return shlex.split(environ.get("CXX", ""))
    except ValueError:
        raise BuildError(f"CXX: expected a shell's command, got {environ['CXX']!r}") from None


def host_compiler(command: list[str]) -> list[str]:
    """nvcc's flags for a C++ compiler's command: nvcc takes the program alone, without a launcher such as ccache."""
    options = list(dropwhile(lambda word: not word.startswith("-"), command))
    flags = ["-ccbin", command[len(command) - len(options) - 1]]
    for option in options:
        flags += ["-Xcompiler", option.replace(",", r"\,")]  # between commas are options of their own
    return flags


def is_clang(compiler: list[str]) -> bool:
    """Whether this C++ compiler is clang, under whatever name."""
    return "clang" in (output_of(*compiler, "--version") or "")


def find_nvcc(environ: Mapping[str, str]) -> str | None:
    """nvcc of $CUDA_HOME or $CUDA_PATH, of $PATH, or of the usual place."""
    homes = [environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if environ.get(name)]
    for home in homes:
        if found := shutil.which("nvcc", path=os.path.join(home, "bin")):
            return found
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


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
