"""The results file of a GPU, written after each step so that an interrupted run can be continued."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.gpu_process import shortened
from benchmarks.pages import ROOT

_SOURCES = ("cmsei_fast/**/*.py", "kernels/*.py", "csrc/**/*.cu", "csrc/**/*.cuh", "csrc/**/*.h", "csrc/**/*.cpp")
# Must be equal for results to be continued.
_SAME = ("source", "gpu", "torch", "triton", "cuda")


def source() -> str:
    """A fingerprint of everything that is measured: the package, its kernels and its C++."""
    return fingerprint(_SOURCES)


def fingerprint(patterns: Iterable[str]) -> str:
    """Hashes the files of the source tree that match."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in ROOT.glob(pattern)}):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


class Results:
    """What is known so far, and its file. Methods may be called from several threads.

    Besides what describes the machine: ``suite["units"]``, ``checks``, ``sanitizer`` {name: {"ok", …}}, ``rows``
    {engine and row: {…}}, ``measured`` [measures that ran, by engine], ``others`` {times to compare with}.
    """

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        """Continues the file if source, GPU and versions are the same, else starts with empty results."""
        self.path, self.lock = path, threading.Lock()
        empty: dict[str, Any] = {"suite": {"units": {}}, "checks": {}, "sanitizer": {}}
        empty |= {"rows": {}, "measured": [], "others": {}}
        self.continued = False
        try:
            previous = json.loads(path.read_text(encoding="utf-8"))
            self.continued = all(previous[name] == about[name] for name in _SAME)
        except (OSError, ValueError, KeyError, TypeError):
            previous = {}
        self.found: dict[str, Any] = {**empty, **(previous if self.continued else {}), **about}

    def put(self, part: str, name: str, value: dict[str, Any], printed: str = "") -> None:
        """Keeps the outcome of one step; what a failed one printed goes to the file's neighbour ``.log`` too."""
        with self.lock:
            (self.found["suite"]["units"] if part == "suite" else self.found[part])[name] = value
            self._write()
            if not value["ok"]:
                self._log(f"{part}: {name}", printed)
        print(f"{part}: {name}: {'ok' if value['ok'] else 'FAILED'}, {value.get('seconds', 0):.1f} s", flush=True)

    def passed(self, part: str, name: str) -> bool:
        """Whether a step has succeeded before."""
        steps = self.found["suite"]["units"] if part == "suite" else self.found[part]
        return bool(steps.get(name, {}).get("ok"))

    def add_rows(self, engine: str, measure: str, rows: dict[str, dict[str, Any]], others: dict[str, Any]) -> None:
        """Keeps what a measure found; rows of the same key are one row."""
        with self.lock:
            self.found["rows"].pop(f"{engine}_{measure}", None)  # an earlier failure
            for key, row in rows.items():
                self.found["rows"].setdefault(f"{engine}_{key}", {}).update(row)
            self.found["others"] |= others
            self.found["measured"] = sorted({*self.found["measured"], f"{engine} {measure}"})
            self._write()

    def fail_row(self, engine: str, measure: str, why: str, printed: str = "") -> None:
        """Keeps why a measure has no rows; what it printed goes to the log."""
        with self.lock:
            self.found["rows"][f"{engine}_{measure}"] = {"failed": shortened(why, 600)}
            self._write()
            self._log(f"{engine}, {measure}: {why}", printed)

    def update(self, **values: Any) -> None:
        """Keeps single values."""
        with self.lock:
            self.found |= values
            self._write()

    def _log(self, title: str, printed: str) -> None:
        with self.path.with_suffix(".log").open("a", encoding="utf-8") as log:
            log.write(f"==== {title}\n{shortened(printed, 100_000)}\n")

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.found, indent=2) + "\n", encoding="utf-8")
        part.replace(self.path)
