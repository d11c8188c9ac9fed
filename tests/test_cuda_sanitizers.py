"""The text of the engine cuda's kernels, run on the host under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from subprocess import CompletedProcess

import beside
import pytest
from cuda_on_host import COMPILER, compiled

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: the kernels cannot be run on the host")
SANITIZERS = "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"
TESTS = str(Path(__file__).parent)

FORMULAS = """
import os
from pathlib import Path

import torch
from cuda_on_host import Module, engine_on_host
from problems import attention_options, computed, error, every_direction, magnitude, truth, whole_scores

with engine_on_host(Module(Path(os.environ["CMSEI_HOST_PAIR"]), fibers=False)):
    for p in (every_direction() + whole_scores() + attention_options())[::10]:
        got = computed(p, "cuda", torch.float64).scores
        assert error(got, truth(p).scores) <= 1e-12 * magnitude(truth(p).scores)
print("done")
"""

TILES = """
from cuda_on_host import TileModule
from tiles_on_host import SCORERS, compared

for run in "hopper bfloat16", "hopper float8", "hopper int8", "mma bfloat16":
    kernel, precision = run.split()
    module = TileModule(kernel, late=1, blocks=2, reverse=True)
    compared(module, SCORERS["cmsei"], (36,) * 4 + (20,), (13, 40, 12), 72, precision)
print("done")
"""


def runtimes() -> list[str]:
    """Paths of the sanitizers' own libraries, which python must have loaded before the kernels; bare names if none."""
    found = (beside.run([str(COMPILER), f"-print-file-name={name}.so"], 60) for name in ("libasan", "libubsan"))
    return [x.stdout.strip() for x in found]


def sanitized(code: str, *names: str) -> CompletedProcess[str] | None:
    """Runs the code with these libraries, in a process that a sanitizer ends where it finds something."""
    preloaded = runtimes()
    if not all(Path(x).is_absolute() for x in preloaded):
        return None
    with tempfile.TemporaryDirectory() as folder:
        built = {name: str(compiled(f"{name}_host.cpp", Path(folder), *SANITIZERS)) for name in names}
        libraries = {f"CMSEI_HOST_{name.upper()}": path for name, path in built.items()}
        own = {"LD_PRELOAD": " ".join(preloaded), "ASAN_OPTIONS": "detect_leaks=0", "OMP_NUM_THREADS": "1"}
        return beside.run([sys.executable, "-c", code], 600, PYTHONPATH=TESTS, **own, **libraries)


def ended_well(done: CompletedProcess[str] | None) -> None:
    if done is None:
        pytest.skip("the compiler has no sanitizers to preload")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "done"


@pytest.mark.beside(work=lambda: sanitized(FORMULAS, "pair"))
def test_formulas_of_a_pair(outcome: CompletedProcess[str] | None) -> None:
    ended_well(outcome)


@pytest.mark.beside(work=lambda: sanitized(TILES, "hopper", "ampere"))
def test_kernels_of_tiles(outcome: CompletedProcess[str] | None) -> None:
    """What leaves shared memory, which is of exact size, or is undefined, ends the process."""
    ended_well(outcome)
