"""Runs the tests that concern a GPU in several processes; those that failed or did not run can be run again alone."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import gpu_process
from benchmarks.gpu_results import Results
from benchmarks.pages import ROOT

ENGINES = ("cuda", "triton", "eager")
# Files of many tests are split into so many parts.
PARTS = {"test_pair_score.py": 4, "test_pair_score_gradients.py": 4, "test_attention_options.py": 2}
_VALUES = "float64_against or float32_against or low_precision or precision_rounds or nan"


class Unit(NamedTuple):
    """Tests that one process runs.

    Args:
        engine: the engine that the tests concern; "" for none.
        file: in ``tests``.
        keyword: what pytest's ``-k`` selects.
        part, parts: which of the file's parts.
        design: of triton's pair score, "" for the usual one.
    """

    engine: str
    file: str
    keyword: str
    part: int = 0
    parts: int = 1
    design: str = ""

    @property
    def name(self) -> str:
        """Unique, and the same in every run."""
        words = " ".join(x for x in (self.engine or "no engine", self.design, self.file) if x)
        return words if self.parts == 1 else f"{words} {self.part + 1}/{self.parts}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables of its process."""
        variables = {"OMP_NUM_THREADS": "1", "CMSEI_TEST_SHARD": f"{self.part}/{self.parts}"}
        return variables | ({"CMSEI_TRITON_DESIGN": self.design} if self.design else {})

    def command(self, *more: str) -> list[str]:
        """pytest's command line."""
        options = ["-q", "-p", "no:cacheprovider", "--tb=short", "--maxfail", "20", *more]
        select = ["-m", "gpu", *(["-k", self.keyword] if self.keyword else [])]
        return [sys.executable, "-m", "pytest", *options, f"tests/{self.file}", *select]


def units() -> list[Unit]:
    """All units, the most important first: each engine's tests, those of no engine, then triton's other design."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests").glob("test_*.py"))}
    backend_files = [name for name, text in texts.items() if re.search(r"\bbackend\b", text)]
    gpu_files = [name for name, text in texts.items() if re.search(r"(?m)^ *@pytest\.mark\.gpu\b", text)]
    ids = [f"{engine}-cuda" for engine in ENGINES]  # of the backends' parameters
    all_units = [Unit("cuda", name, f"not {' and not '.join(ids)}") for name in gpu_files if "cuda" in name]
    for engine, backend_id in zip(ENGINES, ids, strict=True):
        for name in backend_files:
            parts = PARTS.get(name, 1)
            all_units += [Unit(engine, name, backend_id, i, parts) for i in range(parts)]
    all_units += [Unit("", name, f"not {' and not '.join(ids)}") for name in gpu_files if "cuda" not in name]
    fused = Unit("triton", "test_pair_score.py", f"triton-cuda and ({_VALUES})", parts=2, design="fused")
    return [*all_units, *(fused._replace(part=i) for i in range(2))]


def processes() -> int:
    """How many processes run at a time; most of their work is compiling."""
    return max(1, min(14, (os.cpu_count() or 1) - 2))


def _count(text: str, what: str) -> int:
    return sum(int(x) for x in re.findall(rf"(\d+) (?:{what})", text.rsplit("\n=", 1)[-1][-300:]))


def run(results: Results, deadline: float) -> None:
    """Runs the units that have not passed before, several at a time; none starts after the deadline."""

    def run_unit(unit: Unit) -> None:
        seconds_left = deadline - time.perf_counter()
        if seconds_left < 5:
            return
        ended = gpu_process.run(unit.command(), seconds_left, unit.environment)
        outcome = {name: _count(ended.text, what) for name, what in (("passed", "passed"), ("failed", "failed|error"))}
        ok = ended.code in (0, 5)  # 5: this unit has no test
        tail = {} if ok else {"why": ended.why, "tail": gpu_process.shortened(ended.text)}
        results.put("suite", unit.name, {**outcome, "ok": ok, "seconds": ended.seconds, **tail}, ended.text)

    pending = [unit for unit in units() if not results.passed("suite", unit.name)]
    with ThreadPoolExecutor(processes()) as pool:
        list(pool.map(run_unit, pending))
    results.update(suite={**results.found["suite"], **summary(results.found["suite"]["units"], units())})


def summary(outcomes: dict[str, dict[str, Any]], wanted: Iterable[Unit]) -> dict[str, Any]:
    """Sums up the units' outcomes: tests passed and failed, whether everything is green, and which engines are.

    Units without a test succeed. An engine without a passed test, such as one that is not built, is not green.
    """
    wanted = list(wanted)
    failed_units = [unit for unit in wanted if not outcomes.get(unit.name, {}).get("ok")]
    tested = {unit.engine for unit in wanted if outcomes.get(unit.name, {}).get("passed")}
    # No engine can be green without eager, because all are compared with it.
    eager_is_suspect = "eager" not in tested or any(unit.engine in ("", "eager") for unit in failed_units)
    return {
        "passed": sum(x["passed"] for x in outcomes.values()),
        "failed": sum(x["failed"] for x in outcomes.values()),
        "seconds": sum(x["seconds"] for x in outcomes.values()),
        "not_run": [unit.name for unit in wanted if unit.name not in outcomes],
        "red": [unit.name for unit in failed_units if unit.name in outcomes],
        "untested": [
            engine
            for engine in ENGINES
            if engine not in tested and all(unit.name in outcomes for unit in wanted if unit.engine == engine)
        ],
        "green": not failed_units and tested >= {*ENGINES},
        "engines": {
            engine: not eager_is_suspect
            and engine in tested
            and not any(unit.engine == engine for unit in failed_units)
            for engine in ENGINES[:2]
        },
    }


def collect(limit: float) -> dict[str, Any]:
    """Without a GPU: finds the tests that Triton's interpreter would run, of each file with a unit; runs none."""
    first, *others = dict.fromkeys(f"tests/{unit.file}" for unit in units())
    command = Unit("", Path(first).name, "").command("--collect-only", *others)
    ended = gpu_process.run(command, limit)
    collected = sum(int(x) for x in re.findall(r"(?m)^(\d+)(?:/\d+)? tests collected", ended.text))
    failure = "" if ended.code == 0 else gpu_process.shortened(ended.text)
    return {"units": {}, "collected": collected, "green": False, "left_out": True, "tail": failure}
