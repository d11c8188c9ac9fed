"""What Triton there is here, and processes in its interpreter."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import beside
import numpy as np

from cmsei_fast import engines
from cmsei_fast.engines import triton

TESTS = Path(__file__).resolve().parent


def too_old() -> str | None:
    """What the engine says of a Triton that it does not take; None if it takes this one."""
    missing = engines.unavailable("triton") or ""
    return missing if missing.startswith("it needs triton") else None


def no_interpreter() -> str | None:
    """Why there is nothing to run in the interpreter here; None if there is."""
    if triton.interpreted():
        return "in the interpreter already"
    if "cannot be imported" in (engines.unavailable("triton") or ""):
        return "no triton here"
    if (missing := too_old()) is not None:
        return missing
    old = tuple(map(int, version("triton").split(".")[:2])) < (3, 7)
    if old and tuple(map(int, np.__version__.split(".")[:2])) >= (2, 4):
        return "the interpreter of triton before 3.7 needs numpy before 2.4"
    return None


# What a process begins with that runs code, not pytest, whose conftest.py does this.
QUICKLY = f"""
import sys

sys.path.insert(0, {str(TESTS)!r})
import quick_interpreter

quick_interpreter.install()
"""


def interpreted(*arguments: str, **variables: str) -> str:
    """What a process in the interpreter prints, with these environment variables; it must succeed."""
    variables = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", **variables}
    done = beside.run([sys.executable, *arguments], 1800, **variables)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout
