"""Choices that only a measurement can make, kept on disk so that the next process need not measure again.

There is one file per GPU and version of Triton, in ``CMSEI_CACHE`` or the platform's cache folder. A file that cannot
be read, written or understood is ignored: measuring again is always right.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cmsei_fast.data.files import write_text
from cmsei_fast.version import __version__


def directory() -> Path:
    """The folder of stored choices: ``$CMSEI_CACHE``, else ``cmsei_fast`` in the platform's folder for caches."""
    if os.environ.get("CMSEI_CACHE"):
        return Path(os.environ["CMSEI_CACHE"])
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "cmsei_fast"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cmsei_fast"


class Choices:
    """The choices on one GPU: {key: index of a candidate}, in memory and in a file."""

    def __init__(self, device: str, compiler: str) -> None:
        """Reads what there is.

        Args:
            device: the GPU's name.
            compiler: version of what compiles the kernels.
        """
        name = "-".join(re.sub(r"[^a-z0-9.]+", "-", x.lower()).strip("-") for x in (device, compiler, __version__))
        self.path = directory() / f"{name}.json"
        self.found = self._read()

    def _read(self) -> dict[str, int]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            return {k: x for k, x in found.items() if isinstance(k, str) and type(x) is int}
        except (OSError, ValueError, AttributeError):
            return {}

    def _write(self) -> None:
        """Writes the file atomically, merged with choices that another process has added since."""
        self.found = self._read() | self.found
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, json.dumps(self.found, indent=1, sort_keys=True))

    def known(self, key: str, candidates: Sequence) -> int | None:
        """Index of the candidate that was fastest, as :meth:`best` found it; None if it has not been measured."""
        found = self.found.get(f"{key} of {len(candidates)}", -1)
        return found if 0 <= found < len(candidates) else None

    def best(self, key: str, candidates: Sequence, seconds: Callable) -> int:
        """Index of the fastest candidate, measured once for each key.

        Args:
            key: what the choice is for; it must differ for another list of candidates.
            seconds: time of a candidate; one that raises cannot run here.
        """
        if (known := self.known(key, candidates)) is not None:
            return known
        key = f"{key} of {len(candidates)}"

        def time(candidate: Any) -> float:
            try:
                return seconds(candidate)
            except Exception:  # too much shared memory, or whatever a compiler raises
                return float("inf")

        times = [time(x) for x in candidates]
        self.found[key] = times.index(min(times))
        self._write()
        return self.found[key]
