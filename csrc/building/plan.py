"""The build.ninja file: its rules, its steps, and the files that each step depends on."""

from __future__ import annotations

import re
import shlex
import shutil
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from . import tools, tree


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


def python_includes(pybind11: str) -> list[str]:
    """Flags for the headers of Python and of pybind11, which lie in that folder."""
    paths = dict.fromkeys([sysconfig.get_path("include"), sysconfig.get_path("platinclude")])
    return [flag for path in (pybind11, *paths) for flag in ("-isystem", path)]


def start_plan(directory: str, compiler: list[str], nvcc: str | None) -> tuple[Plan, list[str]]:
    """An empty plan whose outputs go to ``directory``, and the include flags for code that binds to Python."""
    folder = tree.ROOT / directory
    # Steps depend on these files, so that another compiler compiles anew.
    tree.write_if_changed(folder / "cxx.txt", tools.output_of(*compiler, "--version") or "")
    tree.write_if_changed(folder / "nvcc.txt", (nvcc and tools.output_of(nvcc, "--version")) or "")
    plan = Plan(directory)
    plan.rule("cxx", f"{plan.quoted(*compiler)} -MMD -MF $out.d $flags -c $in -o $out", "compile", depfile=True)
    return plan, python_includes(f"{directory}/{stable_pybind11(folder).name}")


def ninja_run(plan: Plan) -> list[str]:
    """Writes the build.ninja; returns the command that runs it from the root of the source tree."""
    tree.write_if_changed(tree.ROOT / plan.directory / "build.ninja", plan.text())
    return [*tools.ninja_command(), "-f", f"{plan.directory}/build.ninja"]
