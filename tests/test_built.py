"""What the build made is safe to load on any processor and beside any torch, and is told."""

from __future__ import annotations

import importlib.util
import json
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import cmsei_fast

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / f"cmsei_fast-{sys.implementation.cache_tag}-{sysconfig.get_platform()}"
MODULES = [spec for name in ("_native", "_cuda") if (spec := importlib.util.find_spec(f"cmsei_fast.{name}"))]


def test_the_kernels_folder_is_a_subpackage():
    import cmsei_fast.kernels

    assert Path(cmsei_fast.kernels.__file__).parent.name == "kernels"
    assert importlib.util.find_spec("kernels") is None or "cmsei" not in str(importlib.util.find_spec("kernels").origin)


def test_the_version_is_the_installed_one():
    from importlib.metadata import version

    assert cmsei_fast.__version__ == version("cmsei-fast")


def test_the_build_says_what_it_made():
    report = json.loads((Path(cmsei_fast.__file__).parent / "build_report.json").read_text())
    built = {name for name, outcome in report.items() if outcome["built"]}
    assert {f"cmsei_fast._{name}" for name in built} == {spec.name for spec in MODULES}
    assert all(outcome["built"] or outcome["reason"] for outcome in report.values())


@pytest.mark.skipif(shutil.which("readelf") is None, reason="no readelf (not Linux, or no binutils)")
@pytest.mark.skipif(not MODULES, reason="no compiled module")
@pytest.mark.parametrize("module", MODULES, ids=lambda spec: spec.name)
def test_modules_link_neither_torch_nor_cuda(module):
    done = subprocess.run(["readelf", "-d", module.origin], capture_output=True, text=True, check=True)
    needed = re.findall(r"NEEDED.*\[(.+)\]", done.stdout)
    assert needed
    assert not [name for name in needed if re.match(r"lib(torch|c10|cuda|cudart|nv|python)", name)]


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm (no binutils)")
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="one instruction set only")
@pytest.mark.skipif(not (BUILD / "isa").is_dir(), reason="built elsewhere: the object files are not here")
def test_instruction_sets_share_no_code():
    """A weak symbol outside a variant's namespace would be merged with another's: AVX-512 code in the baseline."""
    seen = 0
    for directory in sorted((BUILD / "isa").iterdir()):
        variant = directory.name
        for file in sorted(directory.glob("*.o")):
            done = subprocess.run(["nm", "--defined-only", str(file)], capture_output=True, text=True, check=True)
            for line in done.stdout.splitlines():
                kind, symbol = line.split()[-2:]
                seen += 1
                if kind in "WVu":
                    assert f"5cmsei{len(variant)}{variant}" in symbol, f"{variant}/{file.name}: {symbol}"
    assert seen
