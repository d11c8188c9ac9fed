"""The text of the engine cuda's kernels, run on the host under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_on_host import COMPILER, compiled

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: the kernels cannot be run on the host")
SANITIZERS = "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"


@pytest.fixture(scope="module")
def runtimes() -> str:
    """Paths of the sanitizers' own libraries, which python must have loaded before the kernels."""
    found = [
        subprocess.run(
            [str(COMPILER), f"-print-file-name={name}.so"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan", "libubsan")
    ]
    if not all(Path(x).is_absolute() for x in found):
        pytest.skip("the compiler has no sanitizers to preload")
    return " ".join(found)


def ends_well(code: str, runtimes: str, **environment: str) -> None:
    """Runs the code in a process of its own, which a sanitizer ends where it finds something."""
    own = {"LD_PRELOAD": runtimes, "ASAN_OPTIONS": "detect_leaks=0", "OMP_NUM_THREADS": "1"}
    own["PYTHONPATH"] = str(Path(__file__).parent)
    command = [sys.executable, "-c", f"{code}print('done')"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | own | environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "done"


def test_formulas_of_a_pair(tmp_path: Path, runtimes: str) -> None:
    library = compiled("pair_host.cpp", tmp_path, *SANITIZERS)
    code = (
        "from pathlib import Path; from cuda_on_host import Module, engine_on_host;"
        "from problems import *; import torch\n"
        f"with engine_on_host(Module(Path({str(library)!r}), fibers=False)):\n"
        "    for p in (every_direction() + whole_scores() + attention_options())[::10]:\n"
        "        got = computed(p, 'cuda', torch.float64).scores\n"
        "        assert error(got, truth(p).scores) <= 1e-12 * magnitude(truth(p).scores)\n"
    )
    ends_well(code, runtimes)


def test_kernels_of_tiles(tmp_path: Path, runtimes: str) -> None:
    """What leaves shared memory, which is of exact size, or is undefined, ends the process."""
    libraries = {
        f"CMSEI_HOST_{name.upper()}": str(compiled(f"{name}_host.cpp", tmp_path, *SANITIZERS))
        for name in ("hopper", "ampere")
    }
    code = (
        "from cuda_on_host import TileModule; from tiles_on_host import SCORERS, compared\n"
        "for run in 'hopper bfloat16', 'hopper float8', 'hopper int8', 'mma bfloat16':\n"
        "    kernel, precision = run.split()\n"
        "    module = TileModule(kernel, late=1, blocks=2, reverse=True)\n"
        "    compared(module, SCORERS['cmsei'], (36,) * 4 + (20,), (13, 40, 12), 72, precision)\n"
    )
    ends_well(code, runtimes, **libraries)
