"""Child processes with a time limit: one that hangs is ended with all its children, and its output is kept.

Before they are ended, the Python processes among them print their stacks.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.pages import ROOT

# A group of its own, so that its children end with it; no session of its own, which would outlive a lost terminal.
_GROUP: dict[str, Any] = {"process_group": 0} if sys.version_info >= (3, 11) else {"preexec_fn": os.setpgrp}
_STACK_SECONDS = 3  # for a process to print its stack


class Ended(NamedTuple):
    """How a process ended: its exit status (None if it ran out of time), its output, its seconds."""

    code: int | None
    text: str
    seconds: float

    @property
    def why(self) -> str:
        """The outcome in a few words."""
        return f"out of time after {self.seconds:.0f} s" if self.code is None else f"exit status {self.code}"


def run(
    command: Sequence[str],
    limit: float,
    environment: Mapping[str, str] | None = None,
    examine: Callable[[int], str] | None = None,
) -> Ended:
    """Runs a command in the source tree for at most ``limit`` seconds; output goes to a file, which cannot block it.

    ``examine`` is called with the id of a process that runs out of time; what it returns is added to the output.
    """
    start = time.perf_counter()
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", **(environment or {})}
    examined = ""
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            **_GROUP,
        )
        try:
            code: int | None = child.wait(max(0.1, limit))
        except subprocess.TimeoutExpired:
            code = None
            if examine is not None:
                examined = examine(child.pid)
            # One after the other, since stacks printed at once would mix.
            child.send_signal(signal.SIGABRT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_STACK_SECONDS)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGABRT)
                time.sleep(0.5)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):  # one that waits for a driver may never end
                child.wait(10)
        output.seek(0)
        text = output.read().decode(errors="replace") + examined
    return Ended(code, text, time.perf_counter() - start)


def shortened(text: str, max_length: int = 3000) -> str:
    """The beginning and the end of a long text."""
    half = max_length // 2
    return text if len(text) <= max_length else f"{text[:half]}\n[…]\n{text[-half:]}"
