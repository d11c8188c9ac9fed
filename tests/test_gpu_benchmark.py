"""The GPU's benchmark script: every line runs, at a tiny size and in Triton's interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_triton_interpreter import reason

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(reason() is not None, reason=str(reason()))
def test_every_measure_runs(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--cpu", "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["suite"]["green"] is False  # what was not tested verifies nothing
    wanted = {"scan_scoring", "cmsei_training", "spatial_forward", "semantic_both", "scale", "cmsei_numerics"}
    assert wanted <= found["rows"].keys()
    assert found["rows"]["scan_numerics"]["same_bits"] is True
    assert found["rows"]["scan_numerics"]["error"] < 1e-5


def test_without_a_gpu_or_a_file_it_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--cpu"], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 2
    assert "--cpu: expected --out" in done.stderr
