"""Runs the cases of ``gpu_cases.py`` on the GPU, each in its own process, with and without compute-sanitizer."""

from __future__ import annotations

import re
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks import gpu_process
from benchmarks.gpu_results import Results
from benchmarks.gpu_suite import processes

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
# With an allocation for each tensor, reads beyond its end show; torch's cache would hide them.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
CASE_SECONDS = {"": 120.0, "memcheck": 150.0}
DEBUGGER_SECONDS = 40.0
# Where the threads of a hanging kernel are: cuda-gdb prints a line for each position, with the source line.
_QUESTIONS = ("info cuda kernels", "cuda kernel 0", "info cuda threads", "info cuda warps", "x/8i $pc")


def sanitizer() -> str | None:
    """Finds compute-sanitizer on the path or in its usual place."""
    return _tool("compute-sanitizer")


def _tool(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/local/cuda/bin")


def locate_threads(process: int) -> str:
    """Asks cuda-gdb where the threads of a process's kernels are; "" without cuda-gdb."""
    if (debugger := _tool("cuda-gdb")) is None:
        return ""
    questions = [x for question in _QUESTIONS for x in ("-ex", question)]
    options = ["-batch", "-nx", "-p", str(process), "-ex", "set pagination off", *questions, "-ex", "detach"]
    return f"\n==== cuda-gdb\n{gpu_process.run([debugger, *options], DEBUGGER_SECONDS).text}"


def command(case: str, tool: str = "") -> list[str]:
    """The command line of a case, under a tool of compute-sanitizer or plain."""
    plain = [sys.executable, "-m", "benchmarks.gpu_cases", case]
    if not tool:
        return plain
    options = ["--error-exitcode", "9", "--report-api-errors", "no", "--show-backtrace", "device"]
    return [str(sanitizer()), "--tool", tool, *options, *plain]


def run(results: Results, cases: list[str], deadline: float, tool: str = "") -> None:
    """Runs the cases that have not passed before, several at a time; none starts after the deadline."""
    part = "sanitizer" if tool else "checks"

    def run_case(case: str) -> None:
        seconds_left = deadline - time.perf_counter()
        if seconds_left < 5:
            return
        limit = min(seconds_left, CASE_SECONDS.get(tool, 240.0))
        ended = gpu_process.run(command(case, tool), limit, _ENVIRONMENT, None if tool else locate_threads)
        outcome = {"ok": ended.code == 0, "seconds": ended.seconds}
        if match := re.search(r"what is allowed: (\S+)", ended.text):
            outcome["of_limit"] = float(match[1])
        if match := re.search(r"(?:ERROR|RACECHECK) SUMMARY: (.+)", ended.text):
            outcome["summary"] = match[1]
        if not outcome["ok"]:
            outcome |= {"why": ended.why, "tail": gpu_process.shortened(ended.text, 4000)}
        results.put(part, name(case, tool), outcome, ended.text)

    pending = [case for case in cases if not results.passed(part, name(case, tool))]
    with ThreadPoolExecutor(processes()) as pool:
        list(pool.map(run_case, pending))


def name(case: str, tool: str) -> str:
    """The key of an outcome."""
    return f"{tool} {case}" if tool else case
