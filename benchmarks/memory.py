"""Peak memory of a computation, measured in its own process."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.pages import ROOT


def peak_bytes() -> int:
    """The most memory that this process has had resident so far."""
    try:
        # ru_maxrss starts at the parent's peak after fork and exec; this starts at 0.
        text = Path("/proc/self/status").read_text()
        return int(re.findall(r"^VmHWM:\s+(\d+) kB", text, re.MULTILINE)[0]) * 1024
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def in_process(module: str, *arguments: str) -> Any:
    """What ``python -m module arguments`` printed as JSON on its last line.

    Raises:
        RuntimeError: with its error output, if it failed.
    """
    done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
