"""Everything there is to show on a GPU, in one run: ``python -m benchmarks.gpu`` on a fresh machine, under ten minutes.

It builds the compiled modules where they are missing, runs the tests that concern a GPU in several processes at a time,
and only if they are green measures (``gpu_measures.py``) and writes ``benchmarks/results/gpu/<gpu>.json``, of which
``python -m benchmarks.table`` makes README's table and the list of verified engines. ``--cpu --out FILE`` finds the
tests and runs every measure at a tiny size in Triton's interpreter instead.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import machine

RESULTS = machine.ROOT / "benchmarks" / "results" / "gpu"
SUITE_SECONDS = 300
RUN_SECONDS = 540  # after which no measure is begun: the machine may be lent for ten minutes


def build() -> str:
    """Builds the compiled modules beside the sources if the native one is missing; says what became of it."""
    from cmsei_fast import engines

    if engines.unavailable("native") is None:
        return "built before"
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"], cwd=machine.ROOT, capture_output=True, text=True
    )
    return "built" if done.returncode == 0 else f"failed: {done.stderr[-500:]}"


def suite_runs(processes: int) -> list[tuple[dict[str, str], list[str]]]:
    """The processes of the suite: environment and pytest's arguments.

    Every test marked ``gpu`` (eager, triton and cuda on the device), dealt out; then, in two more, the scores with
    triton's other design.
    """
    dealt = [({"CMSEI_TEST_SHARD": f"{i}/{processes}"}, ["tests", "-m", "gpu"]) for i in range(processes)]
    values = "float64_against or float32_against or low_precision or precision_rounds or nan"
    again = ["tests/test_pair_score.py", "-m", "gpu", "-k", f"triton and ({values})"]
    fused = {"CMSEI_TRITON_DESIGN": "fused"}
    return [*dealt, *((fused | {"CMSEI_TEST_SHARD": f"{i}/2"}, again) for i in range(2))]


def suite(collect: bool = False) -> dict[str, Any]:
    """Runs the tests; {"passed", "failed", "collected", "seconds", "green", "tail"}; with collect, only finds them."""
    processes = 1 if collect else max(1, min(14, (os.cpu_count() or 1) - 2))  # compiling is most of the work
    end = time.perf_counter() + SUITE_SECONDS

    def run(what: tuple[dict[str, str], list[str]]) -> tuple[str, bool]:
        environment, arguments = what
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--maxfail", "20", *arguments]
        try:
            done = subprocess.run(
                [*command, "--collect-only"] if collect else command,
                cwd=machine.ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
                capture_output=True,
                text=True,
                timeout=max(1.0, end - time.perf_counter()),
            )
        except subprocess.TimeoutExpired as error:
            return f"{(error.stdout or b'').decode()}\nout of time", False
        return done.stdout, done.returncode == 0

    start = time.perf_counter()
    runs = suite_runs(processes)
    with ThreadPoolExecutor(len(runs)) as pool:
        found = list(pool.map(run, runs))
    counts = {
        name: sum(int(x) for text, _ in found for x in re.findall(pattern, text))
        for name, pattern in (
            ("passed", r"(\d+) passed"),
            ("failed", r"(\d+) (?:failed|error)"),
            ("collected", r"(?m)^(\d+)(?:/\d+)? tests collected"),
        )
    }
    tails = "\n".join(text[-2000:] for text, good in found if not good)
    green = not collect and all(good for _, good in found)
    return {**counts, "seconds": time.perf_counter() - start, "green": green, "left_out": collect, "tail": tails}


def describe() -> dict[str, Any]:
    """The machine, and of its GPU the name, the architecture and the versions around it."""
    import torch

    about = machine.describe()
    about["triton"] = __import__("triton").__version__
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        about["gpu"], about["architecture"] = properties.name, f"sm_{properties.major}{properties.minor}"
        about["gpu_bytes"], about["cuda"] = properties.total_memory, torch.version.cuda
    else:
        about["gpu"], about["architecture"] = None, None
    return about


def runs(engine: str, device: str) -> bool:
    """Whether an engine can run on a device; why not is printed."""
    from cmsei_fast import engines

    try:
        engines.get(engine, device)
    except engines.EngineUnavailable as error:
        print(error, flush=True)
        return False
    return True


def measure(cpu: bool, deadline: float) -> dict[str, dict[str, Any]]:
    """The rows of every engine and measure; one that fails, or comes too late, says so and leaves the others alone."""
    import torch

    from benchmarks import gpu_measures, gpu_timing

    device = torch.device("cpu" if cpu else "cuda")
    sizes, dtype = (gpu_timing.SMALL, torch.float32) if cpu else (gpu_timing.FULL, torch.bfloat16)
    at = gpu_timing.Run(device, sizes, dtype)
    engines = [name for name in ("triton", "cuda") if runs(name, device.type)]
    rows: dict[str, dict[str, Any]] = {}
    for name, run in gpu_measures.MEASURES.items():
        for at.engine in engines:
            start = time.perf_counter()
            try:
                if start > deadline:
                    raise TimeoutError("the run's ten minutes were over")
                rows |= {f"{at.engine}_{key}": row for key, row in run(at).items()}
            except Exception as error:  # what was measured before must not be lost
                rows[f"{at.engine}_{name}"] = {"failed": f"{type(error).__name__}: {str(error)[:500]}"}
            print(f"{at.engine}, {name}: {time.perf_counter() - start:.1f} s", flush=True)
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Runs it all; 0 if the suite was green (or left out) and every measure ran."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=str(__doc__).split("\n")[0])
    parser.add_argument("--cpu", action="store_true", help="tiny sizes in Triton's interpreter; needs --out")
    parser.add_argument("--out", type=Path, help="file to write instead of benchmarks/results/gpu/<gpu>.json")
    parser.add_argument("--no-suite", action="store_true", help="leave the tests out; nothing is called verified then")
    options = parser.parse_args(arguments)
    if options.cpu and options.out is None:
        parser.error("--cpu: expected --out, because figures of the interpreter are no results")
    if options.cpu:
        os.environ["TRITON_INTERPRET"] = "1"
    deadline = time.perf_counter() + RUN_SECONDS
    print(f"build: {'left out' if options.cpu else build()}", flush=True)
    found = describe()
    if not options.cpu and found["gpu"] is None:
        parser.error("torch sees no CUDA GPU; --cpu tries the script out")
    skip = options.cpu or options.no_suite
    found["suite"] = {"green": False, "left_out": True} if options.no_suite else suite(collect=options.cpu)
    print(f"suite: {found['suite'].get('seconds', 0):.1f} s", flush=True)
    if not skip and not found["suite"]["green"]:
        print(found["suite"]["tail"])
        print("the suite is red: nothing was measured")
        return 1
    found["rows"] = measure(options.cpu, deadline)
    target = options.out or RESULTS / f"{machine.slug(found['gpu'])}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    part.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    part.replace(target)
    for key, row in found["rows"].items():
        print(key, json.dumps(row))
    print(f"written: {target}")
    return int(any("failed" in row for row in found["rows"].values()))


if __name__ == "__main__":
    sys.exit(main())
