"""The GPU's benchmark script: every line runs, at a tiny size and in Triton's interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_triton_interpreter import reason

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script; benchmarks are not installed with the package."""
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import gpu

    return gpu


@pytest.mark.skipif(reason() is not None, reason=str(reason()))
def test_every_measure_runs(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--cpu", "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["suite"]["green"] is False  # what was not tested verifies nothing
    assert found["suite"]["tail"] == "", "a process of the suite cannot collect its tests"
    assert found["suite"]["collected"] >= 80
    rows = found["rows"]
    assert {"chunked", "fused"} == rows["triton_scan_scoring"]["seconds_by_design"].keys()
    wanted = {"scan_scoring", "cmsei_training", "spatial_forward", "semantic_both", "scale", "cmsei_numerics"}
    assert {f"triton_{key}" for key in wanted} <= rows.keys()
    assert rows["triton_scan_scoring"]["float8_of_product"] > 0
    assert rows["triton_scan_numerics"]["same_bits"] is True
    assert rows["triton_scan_numerics"]["error"] < 1e-5


def test_the_suite_is_dealt_out_whole_and_green_only_if_all_of_it_is(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: list[Any] = [("12 passed, 1 skipped", 0), ("3 passed", 0), ("40 passed", 0), ("1 passed", 0)]
    seen: list[tuple[str, str]] = []

    def run(command: list[str], env: dict[str, str], **_: Any) -> subprocess.CompletedProcess:
        assert "gpu" in command
        seen.append((env.get("CMSEI_TEST_SHARD", ""), env.get("CMSEI_TRITON_DESIGN", "")))
        text, code = outcomes[len(seen) - 1]
        if code is None:
            raise subprocess.TimeoutExpired(command, 1.0, output=text.encode())
        return subprocess.CompletedProcess(command, code, stdout=text)

    monkeypatch.setattr(gpu.subprocess, "run", run)
    monkeypatch.setattr(gpu.os, "cpu_count", lambda: 4)
    monkeypatch.delenv("CMSEI_TEST_SHARD", raising=False)
    monkeypatch.delenv("CMSEI_TRITON_DESIGN", raising=False)
    found = gpu.suite()
    assert (found["passed"], found["failed"], found["green"]) == (56, 0, True)
    assert sorted(seen) == [("0/2", ""), ("0/2", "fused"), ("1/2", ""), ("1/2", "fused")]
    for bad in (("2 failed, 3 passed", 1), ("3 passed", None), ("", 5)):
        seen.clear()
        outcomes[1] = bad
        found = gpu.suite()
        assert found["green"] is False
        assert bad[0] in found["tail"]


def test_the_literal_forms_stay_where_the_features_are(gpu: Any) -> None:
    from benchmarks import field

    images, captions = torch.empty(3, 4, 8, device="meta"), torch.empty(3, 5, 8, device="meta")
    for form in (field.scan_t2i, field.scan_i2t, field.cmsei):
        scores = form(images, captions, [5, 2, 1])
        assert scores.device.type == "meta"
        for loss in (field.hinge, field.hardest_hinge):
            assert loss(scores).device.type == "meta"


def test_shards_hold_every_test_once(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite's own conftest, over a file of its own."""
    pytester.makeconftest((ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"))
    pytester.makeini("[pytest]\nmarkers = gpu: x")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.gpu
        @pytest.mark.parametrize("n", range(10))
        def test_marked(n):
            pass

        def test_other(backend):
            pass
        """
    )
    seen = []
    for i in range(3):
        monkeypatch.setenv("CMSEI_TEST_SHARD", f"{i}/3")
        done = pytester.runpytest_subprocess("--collect-only", "-q", "-m", "gpu", "-k", "marked")
        seen += [x for x in done.outlines if "::" in x]
    assert len(seen) == len(set(seen)) == 10


def test_without_a_gpu_or_a_file_it_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--cpu"], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 2
    assert "--cpu: expected --out" in done.stderr
