"""The cuda engine's kernels on the host, under every engine's tests, in a process of its own; a share of the cases.

All of them: ``CMSEI_CUDA_ON_HOST=hopper PYTHONPATH=tests pytest -p cuda_host_plugin`` and the files below.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_on_host import COMPILER, library

TESTS = Path(__file__).resolve().parent
FILES = ("test_pair_score.py", "test_pair_score_gradients.py", "test_relation_attention.py")


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: the kernels cannot be run on the host")
@pytest.mark.parametrize(("kernel", "shard"), [("hopper", "4/30"), ("mma", "9/40")])
def test_as_every_engine(kernel: str, shard: str) -> None:
    environment = os.environ | {"CMSEI_CUDA_ON_HOST": kernel, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    environment["CMSEI_TEST_SHARD"] = shard
    environment |= {
        f"CMSEI_HOST_{name.upper()}": str(library(name)) for name in ("pair", "hopper", "ampere", "relation")
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "cuda_host_plugin"]
    done = subprocess.run(
        [*command, *(str(TESTS / file) for file in FILES)],
        cwd=TESTS.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None, done.stdout
    assert int(passed[1]) >= 30, done.stdout
    launches = re.search(r"launches: (\d+) of tiles, 1 kinds of pairs, (\d+) forward, (\d+) backward", done.stdout)
    assert launches is not None, done.stdout
    assert all(int(n) >= 1 for n in launches.groups()), done.stdout
