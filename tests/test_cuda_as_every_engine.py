"""The cuda engine's kernels on the host, under every engine's tests, in a process of its own; a share of the cases.

All of them: ``CMSEI_CUDA_ON_HOST=hopper PYTHONPATH=tests pytest -p cuda_host_plugin`` and the files below.
"""

from __future__ import annotations

import re
import sys
from subprocess import CompletedProcess

import beside
import pytest
from cuda_on_host import COMPILER, library

FILES = ("test_pair_score.py", "test_pair_score_gradients.py", "test_relation_attention.py")


def every_engine(kernel: str, shard: str) -> CompletedProcess[str]:
    """Runs a share of the cases of these files."""
    libraries = {f"CMSEI_HOST_{name.upper()}": str(library(name)) for name in ("pair", "hopper", "ampere", "relation")}
    variables = {"CMSEI_CUDA_ON_HOST": kernel, "CMSEI_TEST_SHARD": shard, "OMP_NUM_THREADS": "1", "PYTHONPATH": "tests"}
    options = ("-q", "-p", "no:cacheprovider", "-p", "cuda_host_plugin")
    files = (f"tests/{file}" for file in FILES)
    return beside.run([sys.executable, "-m", "pytest", *options, *files], 600, **variables, **libraries)


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: the kernels cannot be run on the host")
@pytest.mark.beside(work=every_engine)
@pytest.mark.parametrize(("kernel", "shard"), [("hopper", "4/30"), ("mma", "9/40")])
def test_as_every_engine(kernel: str, shard: str, outcome: CompletedProcess[str]) -> None:
    assert outcome.returncode == 0, outcome.stdout[-4000:] + outcome.stderr[-2000:]
    passed = re.search(r"(\d+) passed", outcome.stdout)
    assert passed is not None, outcome.stdout
    assert int(passed[1]) >= 30, outcome.stdout
    launches = re.search(r"launches: (\d+) of tiles, 1 kinds of pairs, (\d+) forward, (\d+) backward", outcome.stdout)
    assert launches is not None, outcome.stdout
    assert all(int(n) >= 1 for n in launches.groups()), outcome.stdout
