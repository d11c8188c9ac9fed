"""Runs everything that needs a GPU: ``python -m benchmarks.gpu``, on a fresh machine without a network.

It works through these steps, for at most ``--seconds``:

1. build the compiled modules;
2. run every kernel once on a small problem (``gpu_cases.py``);
3. run the tests that concern a GPU (``gpu_suite.py``);
4. run the small problems under compute-sanitizer's memcheck;
5. take the measures (``gpu_measures.py``), the most important first;
6. run the sanitizer's other tools.

Each step runs in processes of its own with a time limit, so one that fails or hangs does not stop the others. Its
outcome is written when it ends, to ``benchmarks/results/gpu/<gpu>.json`` or ``--out``. Run again with the same file,
it repeats only what did not succeed. The exit status is 0 if everything succeeded, 1 if something failed, 3 if time ran
out.

``python -m benchmarks.table`` makes README's table and the list of verified engines from the file. ``--cpu --out FILE``
only collects the tests, and runs every measure at a tiny size in Triton's interpreter.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import gpu_build, gpu_checks, gpu_process, gpu_suite, machine
from benchmarks.gpu_results import Results, source
from benchmarks.gpu_timing import FEATURES, MEASURE_SECONDS
from benchmarks.pages import RESULTS

SECONDS = 540  # for machines that are lent for ten minutes at a time
PARTS = ("build", "checks", "suite", "sanitizer", "measures", "tools")
# Most seconds of a part, and the seconds that it leaves for measures that have not run yet.
MOST = {"build": 300, "checks": 130, "suite": 270, "sanitizer": 170}
LEFT = {"suite": 190, "sanitizer": 100}
# Engines and measures of one process, what matters most first.
MEASURES = (
    ("cuda", ("scoring", "attention")),
    ("triton", ("scoring", "attention")),
    ("cuda", ("recall",)),
    ("cuda", ("training", "numerics", "scale")),
    ("triton", ("training", "numerics", "scale", "designs")),
    ("cuda", ("replays",)),
    ("triton", ("replays",)),
    ("cuda", ("compiled_attention", "compiled")),
    ("triton", ("compiled_attention", "compiled")),
)


def describe() -> dict[str, Any]:
    """Describes the machine, the source, and the GPU with its architecture and versions."""
    import torch

    about = machine.describe() | {"source": source()}
    about["triton"] = __import__("triton").__version__
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        about["gpu"], about["architecture"] = properties.name, f"sm_{properties.major}{properties.minor}"
        about["gpu_bytes"], about["cuda"] = properties.total_memory, torch.version.cuda
    else:
        about["gpu"], about["architecture"], about["cuda"] = None, None, torch.version.cuda
    return about


def cases(about: dict[str, Any]) -> list[str]:
    """The small problems for this GPU."""
    from benchmarks import gpu_cases

    capability = (int(about["architecture"][3:-1]), int(about["architecture"][-1]))
    return [case for case in gpu_cases.CASES if gpu_cases.needed(case, capability)]


def measure(results: Results, engine: str, names: list[str], deadline: float) -> None:
    """Runs an engine's measures that have not run; if one fails or hangs, the rest run in a new process."""
    left = [name for name in names if f"{engine} {name}" not in results.found["measured"]]
    with tempfile.TemporaryDirectory() as folder:
        others, out = Path(folder, "others.json"), Path(folder, "out.jsonl")
        while left and (seconds := deadline - time.perf_counter()) > 10:
            others.write_text(json.dumps(results.found["others"]), encoding="utf-8")
            out.write_text("", encoding="utf-8")
            command = [sys.executable, "-m", "benchmarks.gpu_measures", engine, str(others), str(out), *left]
            ended = gpu_process.run(command, min(seconds, MEASURE_SECONDS * len(left) + 30))
            lines = [json.loads(x) for x in out.read_text(encoding="utf-8").splitlines() if x.endswith("}")]
            started = [x["begun"] for x in lines if "begun" in x]
            for found in (x for x in lines if "measure" in x):
                name = found["measure"]
                left.remove(name)
                if "failed" in found:
                    results.fail_row(engine, name, found["failed"], ended.text)
                else:
                    results.add_rows(engine, name, found["rows"], found["others"])
                print(f"{engine}, {name}: {found.get('failed', 'measured')}, {found['seconds']:.1f} s", flush=True)
            if left and (not started or started[-1] in left):  # it ended before the first, or within a measure
                stuck = started[-1] if started else left[0]
                left.remove(stuck)
                results.fail_row(engine, stuck, f"{ended.why}: {ended.text[-400:]}", ended.text)
                print(f"{engine}, {stuck}: {ended.why}", flush=True)


def measures() -> list[tuple[str, list[str]]]:
    """Engines and measures in order; without recalls if there are no features of a model."""
    kept = [(engine, [x for x in names if x != "recall" or FEATURES.is_file()]) for engine, names in MEASURES]
    return [(engine, names) for engine, names in kept if names]


def unfinished(results: Results, parts: list[str], wanted: list[str]) -> tuple[list[str], list[str]]:
    """Lists what failed and what has not run, in words."""
    found = results.found
    failed = [f"{part}: {name}" for part in ("checks", "sanitizer") for name, x in found[part].items() if not x["ok"]]
    failed += [f"suite: {name}" for name, x in found["suite"]["units"].items() if not x["ok"]]
    failed += [f"suite: no test of {engine} passed" for engine in found["suite"].get("untested", ())]
    failed += [f"{key}: {row['failed'][:200]}" for key, row in found["rows"].items() if "failed" in row]
    missing = []
    for part, tools in (("checks", ("",)), ("sanitizer", ("memcheck",)), ("tools", gpu_checks.TOOLS[1:])):
        names = [gpu_checks.name(case, tool) for tool in tools for case in wanted]
        done = found["checks" if part == "checks" else "sanitizer"]
        missing += [f"{part}: {x}" for x in names if part in parts and x not in done]
    if "suite" in parts:
        missing += [f"suite: {unit.name}" for unit in gpu_suite.units() if unit.name not in found["suite"]["units"]]
    if "measures" in parts:
        all_of_them = [(engine, name) for engine, names in measures() for name in names]
        done = {*found["measured"], *(key.replace("_", " ", 1) for key in found["rows"])}
        missing += [f"{engine}: {name}" for engine, name in all_of_them if f"{engine} {name}" not in done]
    return failed, missing


def run_parts(results: Results, parts: list[str], end: float) -> int:
    """Runs the parts; returns the exit status."""
    wanted = cases(results.found)
    names = [f"{engine} {name}" for engine, names in measures() for name in names] if "measures" in parts else []
    waiting = any(name not in results.found["measured"] for name in names)

    def until(part: str) -> float:
        return min(end - waiting * LEFT.get(part, 0), time.perf_counter() + MOST.get(part, SECONDS))

    if "checks" in parts:
        gpu_checks.run(results, wanted, until("checks"))
    if "suite" in parts:
        gpu_suite.run(results, until("suite"))
    if "sanitizer" in parts and gpu_checks.sanitizer():
        gpu_checks.run(results, wanted, until("sanitizer"), "memcheck")
    if "measures" in parts:
        for engine, names in measures():
            measure(results, engine, names, end)
    if "tools" in parts and gpu_checks.sanitizer():
        for tool in gpu_checks.TOOLS[1:]:
            gpu_checks.run(results, wanted, end, tool)
    for key, row in results.found["rows"].items():
        print(key, json.dumps(row))
    suite = results.found["suite"]
    print(f"suite: {suite.get('passed', 0)} passed, {suite.get('failed', 0)} failed; green: {suite.get('engines')}")
    failed, missing = unfinished(results, parts, wanted)
    if not gpu_checks.sanitizer():
        missing = [x for x in missing if not x.startswith(("sanitizer", "tools"))]
        print("compute-sanitizer is not here")
    for title, names in (("failed", failed), ("not run yet", missing)):
        print(f"{title}: {len(names)}", *names[:40], sep="\n  ")
    return 1 if failed else 3 if missing else 0


def main(arguments: list[str] | None = None) -> int:
    """Runs all parts or continues an earlier run; returns the exit status."""
    start = time.perf_counter()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=str(__doc__).split("\n")[0])
    parser.add_argument("--cpu", action="store_true", help="tiny sizes in Triton's interpreter; needs --out")
    parser.add_argument(
        "--out", type=Path, help="file to write or go on with; default benchmarks/results/gpu/<gpu>.json"
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help="when to stop (default %(default)s)")
    parser.add_argument("--parts", default=",".join(PARTS), help="which of %(default)s")
    parser.add_argument("--commit", help="the commit of a source tree that has no history with it")
    options = parser.parse_args(arguments)
    parts = [x.strip() for x in options.parts.split(",")]
    if wrong := [x for x in parts if x not in PARTS]:
        parser.error(f"--parts: expected some of {', '.join(PARTS)}, got {', '.join(wrong)}")
    if options.cpu and options.out is None:
        parser.error("--cpu: expected --out, because figures of the interpreter are no results")
    built = "left out"
    if "build" in parts and not options.cpu:
        kept = options.out and options.out.with_suffix(".modules")
        built = gpu_build.build(min(MOST["build"], options.seconds), kept)
        print(f"build: {built}", flush=True)
    if options.cpu:
        os.environ["TRITON_INTERPRET"] = "1"
    about = describe() | {"build": built}
    about |= {"commit": options.commit} if options.commit else {}
    if not options.cpu and about["gpu"] is None:
        parser.error("torch sees no CUDA GPU; --cpu tries the script out")
    results = Results(options.out or RESULTS / "gpu" / f"{machine.slug(about['gpu'])}.json", about)
    print(f"{results.path}: {'continued' if results.continued else 'begun'}", flush=True)
    if not options.cpu:
        return run_parts(results, parts, start + options.seconds)
    results.update(suite=gpu_suite.collect(600))
    measure(
        results, "triton", [name for engine, names in measures() if engine == "triton" for name in names], start + 1800
    )
    return int(any("failed" in row for row in results.found["rows"].values()))


if __name__ == "__main__":
    sys.exit(main())
