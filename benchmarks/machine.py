"""Describes the machine, the commit and the versions that the numbers were measured with."""

from __future__ import annotations

import datetime
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.pages import ROOT
from cmsei_fast import __version__, engines


def cpu() -> str:
    """The processor's name, with family and model where hypervisors shorten the name."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = dict(re.findall(r"^(model name|cpu family|model)\s*:\s*(.+)$", text, re.MULTILINE))
    name = found.get("model name", platform.machine())
    if {"cpu family", "model"} <= found.keys():
        name += f" (family {found['cpu family']}, model {found['model']})"
    return name


# What the family and the model that hypervisors leave of a name are known as.
GENERATIONS = {
    "AMD EPYC (family 25, model 1)": "EPYC Zen 3",
    "AMD EPYC (family 25, model 17)": "EPYC Zen 4",
    "AMD EPYC (family 26, model 2)": "EPYC Zen 5",
}
INSTRUCTIONS = {"avx2": "AVX2", "avx512": "AVX-512", "avx512bf16": "AVX-512", "avx512amx": "AMX"}


def short(cpu: str, isa: str | None) -> str:
    """A processor and its widest instructions in a few words."""
    name = GENERATIONS.get(cpu) or " ".join(re.sub(r"\(R\)|\(TM\)|\(family.*\)|\bProcessor\b", "", cpu).split())
    return f"{name}, {INSTRUCTIONS.get(isa or '', isa or 'no native engine')}"


def slug(name: str) -> str:
    """A file name for a processor."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def git(*arguments: str) -> str | None:
    """What git says about this source tree; None where it is not one."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def describe() -> dict[str, Any]:
    """Commit, processor, instruction sets, threads and versions, for the results file."""
    isas, isa = [], None
    if engines.unavailable("native") is None:
        from cmsei_fast.engines import native

        isas, isa = native.isas(), native.current_isa()
    # Results, and the pages made of them, are written into the tree: they alone do not make a commit another one.
    made = [f":(exclude){x}" for x in ("benchmarks/results", "README.md", "docs/speed.md", "docs/plots")]
    changed = git("status", "--porcelain", "--", ".", *made)
    return {
        "commit": git("rev-parse", "HEAD"),
        "changed_since_commit": None if changed is None else bool(changed),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "cpu": cpu(),
        "isa": isa,
        "isas": isas,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cmsei_fast": __version__,
        "system": f"{platform.system()} {platform.machine()}",
    }
